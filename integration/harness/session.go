// Package harness gives tests, the demo and the benchmarks a real containerd
// in a place of its own, and tells what was left behind there.
//
// A session (Enter) is the whole program run again in private mount, pid,
// network, uts and cgroup namespaces: /run is a tmpfs that shows the host's entries except
// those of container runtimes, /etc is an overlay, and everything that was
// started ends with the session. A World is one containerd in a session.
//
// It is for this repository's own tests only, needs root, and is Linux only.
package harness

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	stageEnv = "NEXCAGE_SESSION_STAGE"
	tokenEnv = "NEXCAGE_SESSION_TOKEN"
	dirEnv   = "NEXCAGE_SESSION_DIR"

	stageInit = "init"
	stageRun  = "run"
)

// Token is part of every name that a session gives to something the kernel or
// LXC knows outside of the session's namespaces: containerd namespaces,
// container ids and so cgroups.
func Token() string { return os.Getenv(tokenEnv) }

// Dir is the session's directory: a tmpfs that vanishes with the session.
func Dir() string { return os.Getenv(dirEnv) }

// guestEnv is set in the guests of package vm.
const guestEnv = "NEXCAGE_GUEST"

// Guest says whether this machine is one of those.
func Guest() bool { return os.Getenv(guestEnv) != "" }

// Slowness is how much longer things may take than on a host: a guest of
// package vm says that it is one.
func Slowness() int {
	if Guest() {
		return 6
	}
	return 1
}

// Enter runs the program again in a session, where it calls run, and returns
// the exit code that main should end with. In a guest that is the session's
// own (WholeGuest) it calls run at once.
func Enter(run func() int) int {
	var err error
	code := 1
	switch stage := os.Getenv(stageEnv); {
	case stage == stageInit:
		code, err = initStage()
	case stage == stageRun:
		return run()
	case WholeGuest():
		code, err = guestStage(run)
	default:
		code, err = outerStage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "session:", err)
		return 1
	}
	return code
}

// outerStage stays in the host's namespaces, to remove what outlives the
// session's: its cgroups and its mount point.
func outerStage() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("needs root: it mounts, and starts containers")
	}
	dir, err := os.MkdirTemp("", "nxc-")
	if err != nil {
		return 1, err
	}
	defer os.Remove(dir) // only ever a mount point: empty here
	token, err := newToken()
	if err != nil {
		return 1, err
	}

	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd, err := stage(stageInit)
	if err != nil {
		return 1, err
	}
	cmd.Env = append(cmd.Env, tokenEnv+"="+token, dirEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	forward(cmd.Process)
	code := exitCode(cmd.Wait())
	return code, removeCgroups(token)
}

func newToken() (string, error) {
	random := make([]byte, 3)
	_, err := rand.Read(random)
	return "nx" + hex.EncodeToString(random), err
}

func stage(name string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, stageEnv+"=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, stageEnv+"="+name)
	return cmd, nil
}

// forward passes on the signals that ask to end. A terminal sends SIGINT to
// all stages at once.
func forward(p *os.Process) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	go func() {
		for s := range c {
			if s != unix.SIGINT {
				_ = p.Signal(s)
			}
		}
	}()
}

func exitCode(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee) && ee.Exited():
		return ee.ExitCode()
	case errors.As(err, &ee):
		return 128 + int(ee.Sys().(syscall.WaitStatus).Signal())
	}
	return 1
}

// initStage is process 1 of the session: it makes the mounts, starts the
// program, and reaps. When it ends the kernel ends all others.
func initStage() (int, error) {
	runtime.LockOSThread() // namespaces are the thread's, and its children's
	if err := private(Dir()); err != nil {
		return 1, err
	}
	if err := loopbackUp(); err != nil {
		return 1, fmt.Errorf("bring up lo: %w", err)
	}
	if err := privateCgroups(Token()); err != nil {
		return 1, err
	}
	cmd, err := stage(stageRun)
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	forward(cmd.Process)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 1, fmt.Errorf("wait: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid:
			return 128 + int(status.Signal()), nil
		}
	}
}

// ours are the entries of /run that a session has for itself.
var ours = map[string]bool{"nexcage": true, "containerd": true, "crun": true, "runc": true, "lxc": true}

func private(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711,size=75%"); err != nil {
		return fmt.Errorf("mount the session's tmpfs: %w", err)
	}
	if err := privateNull(filepath.Join(dir, "null")); err != nil {
		return fmt.Errorf("a /dev/null of the session's own: %w", err)
	}
	if err := privateRun(filepath.Join(dir, "host-run")); err != nil {
		return err
	}
	if err := privateEtc(filepath.Join(dir, "etc")); err != nil {
		return err
	}
	if err := privateBin(filepath.Join(dir, "bin")); err != nil {
		return err
	}
	return hideUnified()
}

// privateBin binds the programs to where the root of a user namespace finds
// the helper, as it does where that is installed: a checkout may be below a
// directory of root's alone, as /root is.
func privateBin(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(Bin(), dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", Bin(), err)
	}
	return os.Setenv("NEXCAGE_BIN", dir)
}

// privateRun replaces /run by a tmpfs into which the host's entries are bound.
func privateRun(host string) error {
	if err := os.Mkdir(host, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/run", host, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind /run: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	entries, err := os.ReadDir(host)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ours[e.Name()] {
			continue
		}
		if err := bindEntry(filepath.Join(host, e.Name()), filepath.Join("/run", e.Name()), e); err != nil {
			return err
		}
	}
	return unix.Unmount(host, unix.MNT_DETACH)
}

func bindEntry(from, to string, e os.DirEntry) error {
	switch {
	case e.Type()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return err
		}
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", to, err)
	}
	return nil
}

func privateEtc(dir string) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	data := "lowerdir=/etc,upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", "/etc", "overlay", 0, data); err != nil {
		return fmt.Errorf("mount an overlay at /etc: %w", err)
	}
	return nil
}

// hideUnified unmounts, in the session only, a cgroup2 hierarchy beside v1
// ones: crun refuses to run where it has controllers.
func hideUnified() error {
	const unified = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(unified, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if os.Getenv("NEXCAGE_TEST_KEEP_UNIFIED") != "" {
		return nil
	}
	if err := unix.Unmount(unified, 0); err != nil {
		return fmt.Errorf("hide %s: %w", unified, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// privateNull puts a node of the session's own over /dev/null: crun 1.8.1 gives
// what it finds there to the container's user.
func privateNull(path string) error {
	if err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, 3))); err != nil {
		return err
	}
	if err := unix.Chmod(path, 0o666); err != nil {
		return err
	}
	return unix.Mount(path, "/dev/null", "", unix.MS_BIND, "")
}
