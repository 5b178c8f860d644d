package rootfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// handle is a descriptor for a place in a file system (O_PATH), or for a
// detached mount, that lives no longer than a call to this package.
type handle int

const none handle = -1

func (h handle) close() {
	if h >= 0 {
		_ = unix.Close(int(h))
	}
}

// stat describes what h refers to itself, also if that is a symlink.
func (h handle) stat() (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(int(h), "", &st, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

func (h handle) isDir() (bool, error) {
	st, err := h.stat()
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// file returns a duplicate of h that lives on.
func (h handle) file(name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(h), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// using calls f with the descriptor of file, which stays in the mode that it
// is in (os.File.Fd would make it block).
func using(file *os.File, f func(h handle) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := conn.Control(func(fd uintptr) { ferr = f(handle(fd)) }); err != nil {
		return err
	}
	return ferr
}

// retry repeats f while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// missing says that a path leads to nothing.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
