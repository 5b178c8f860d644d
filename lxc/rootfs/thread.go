package rootfs

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread calls f on a thread with a root, working directory and umask (0)
// of its own, which may join namespaces: the thread ends with f, and nothing
// else ever runs on it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- onThisThread(f) }()
	return <-done
}

func onThisThread(f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread can not end before the process does, and is what
		// /proc/self shows: it is held here, so that f gets another.
		defer runtime.UnlockOSThread()
		return onThread(f)
	}
	// Never unlocked: Go ends the thread together with the goroutine.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	unix.Umask(0)
	return f()
}
