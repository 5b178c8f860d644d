package host

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// LockTimeout is how long commands wait for a container's lock; `pct create`
// waits CreateLockTimeout.
const (
	LockTimeout       = 10 * time.Second
	CreateLockTimeout = 5 * time.Second
)

// Locked runs f with the container's flock, as PVE::Tools::lock_file does,
// whose messages it prints.
func Locked(vmid int, limit time.Duration, f func() error) error {
	if err := os.MkdirAll(LockDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(LockDir, fmt.Sprintf("pve-config-%d.lock", vmid))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return Dief("can't open lock for config - %w", err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err := await(file, path, limit); err != nil {
			return err
		}
	}
	return f()
}

func await(file *os.File, path string, limit time.Duration) error {
	fmt.Fprint(os.Stderr, "trying to acquire lock...")
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
			if err != unix.EINTR {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			return Dief("can't lock file '%s' - %w", path, err)
		}
		fmt.Fprintln(os.Stderr, " OK")
		return nil
	case <-time.After(limit): // the process ends, and so the attempt
		return DieCode(4, "can't lock file '%s' - got timeout", path)
	}
}
