package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sessionEnv says, with the value "guest", that a guest of package vm is the
// session: all of the machine, without namespaces in it.
const sessionEnv = "NEXCAGE_SESSION"

// WholeGuest says whether the session is all of a guest, where systemd can run
// what a session's containerd asks for. The guest is thrown away afterwards.
func WholeGuest() bool { return os.Getenv(sessionEnv) == "guest" }

// guestStage makes the guest the session. What is started ends with the unit
// that this program is, or with the guest.
func guestStage(run func() int) (int, error) {
	if !Guest() {
		return 1, errors.New(sessionEnv + "=guest: this machine is no guest that is thrown away")
	}
	dir, err := os.MkdirTemp("", "nxc-")
	if err != nil {
		return 1, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711,size=75%"); err != nil {
		return 1, fmt.Errorf("mount the session's tmpfs: %w", err)
	}
	token, err := newToken()
	if err != nil {
		return 1, err
	}
	if err := errors.Join(os.Setenv(tokenEnv, token), os.Setenv(dirEnv, dir)); err != nil {
		return 1, err
	}
	return run(), nil
}

// machines says whether a process is one of the guest itself, which come and go
// with every device: a thread of the kernel, or of a service that every Debian
// has.
func machines(dir string, rest []string) bool {
	if !WholeGuest() {
		return false
	}
	const kthreadd = "2"
	if filepath.Base(dir) == kthreadd || rest[1] == kthreadd { // its parent
		return true
	}
	group, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return true // ended
	}
	for _, name := range []string{"/init.scope", "/system.slice/systemd-", "/system.slice/dbus.", "/system.slice/nexcage-agent."} {
		if strings.HasPrefix(string(group), "0::"+name) {
			return true
		}
	}
	return false
}
