// Package lsm tells which security modules this kernel labels processes with:
// AppArmor, SELinux, or none. It is for package lxc, which refuses labels that
// nobody would look at.
package lsm

import (
	"bytes"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Attributes of processes, and what tells whether a module is on.
const (
	appArmorEnabled = "/sys/module/apparmor/parameters/enabled"
	appArmorAttr    = "/proc/self/attr/apparmor/exec"
	selinuxFS       = "/sys/fs/selinux"
)

// AppArmor says whether AppArmor is enabled, as the other runtimes find out.
var AppArmor = sync.OnceValue(func() bool { return enabled(appArmorEnabled) })

func enabled(parameter string) bool {
	b, err := os.ReadFile(parameter)
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

// AppArmorAttr says whether AppArmor has attributes of its own, which it has
// since Linux 5.8, so that other modules can have theirs.
var AppArmorAttr = sync.OnceValue(func() bool {
	_, err := os.Stat(appArmorAttr)
	return err == nil
})

// SELinux says whether SELinux is enabled: its file system is mounted then.
var SELinux = sync.OnceValue(func() bool { return isSELinuxFS(selinuxFS) })

func isSELinuxFS(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.SELINUX_MAGIC
}
