package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountPoint is where LXC looks for hierarchies, and nowhere else.
const mountPoint = "/sys/fs/cgroup"

// Hide calls start in a mount namespace of its own, in which no hierarchy is
// mounted at /sys/fs/cgroup. An lxc-start that start forks there manages no
// control groups: it makes none, removes none, and stays itself in those of
// the shim. (liblxc: "Container runs with unwritable cgroup layout".)
//
// That is what a container wants whose group is made by Create: LXC removes
// the group with the container, figures of the end and all, leaves others
// behind, refuses one that exists, and takes 8 to 15 ms to move lxc-start from
// one group to another.
//
// start runs on a thread of its own, which ends with it: it must not depend
// on the thread it is called from.
func Hide(start func() error) error {
	done := make(chan error)
	go onOtherThread(func() { done <- hidden(start) })
	return <-done
}

// onOtherThread calls f on a thread that ends with it, and is not the main
// thread of the process: that one never ends, and is what /proc/self shows.
func onOtherThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f() // never unlocked, so that the thread ends
		return
	}
	done := make(chan struct{})
	go onOtherThread(func() { defer close(done); f() })
	<-done // holding the main thread
	runtime.UnlockOSThread()
}

func hidden(start func() error) error {
	if err := leaveCgroups(); err != nil {
		return fmt.Errorf("hide %s: %w", mountPoint, err)
	}
	return start()
}

func leaveCgroups() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// What the host unmounts goes away here too; nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	err := unix.Mount("nothing", mountPoint, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k")
	if err != nil {
		return os.NewSyscallError("mount", err)
	}
	return dropSnapshots()
}

// dropSnapshots unmounts the root file systems of other containers. On a host
// whose mounts are private, this namespace would otherwise hold them for as
// long as it lives. Shims mount them at the bundle's rootfs.
func dropSnapshots() error {
	mounts, err := ownMounts(func(m *mountinfo.Info) (skip, stop bool) {
		slave := m.Optional != "" // follows the host
		return slave || filepath.Base(m.Mountpoint) != "rootfs", false
	})
	if err != nil {
		return err
	}
	for _, m := range mounts {
		// Mounted by another, or gone meanwhile: of no concern.
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return nil
}

// ownMounts reads the mounts of this thread, which may be in another namespace
// than the process.
func ownMounts(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, filter)
}
