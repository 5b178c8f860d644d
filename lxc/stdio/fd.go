package stdio

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// control calls f with the descriptor, which stays open and as it is
// meanwhile (File.Fd would make it blocking).
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := conn.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return os.ErrClosed // which package os does not make of it
	}
	return ferr
}

// descriptor returns the number of the descriptor, for use while the caller
// knows that the file is open; -1 if it is closed.
func descriptor(file *os.File) (n int) {
	n = -1
	_ = control(file, func(fd int) error { n = fd; return nil })
	return n
}

// queued returns the number of bytes that wait in a pipe, FIFO or terminal.
func queued(file *os.File) (n int, err error) {
	err = control(file, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n, err
}

// setSize sets the size of a terminal, in characters.
func setSize(tty *os.File, width, height uint16) error {
	return control(tty, func(fd int) error {
		err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
		return os.NewSyscallError("TIOCSWINSZ", err)
	})
}

// ready returns the events of poll(2) that are pending on the descriptors, one
// for each. It does not wait.
func ready(fds ...unix.PollFd) []unix.PollFd {
	for {
		if _, err := unix.Poll(fds, 0); err != unix.EINTR {
			return fds
		}
	}
}

// again repeats a system call that a signal has interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// openBlocking opens a file without Go's poller: for an end of a FIFO that is
// only held, and must not wake anybody.
func openBlocking(path string, flag int) (*os.File, error) {
	fd, err := again(func() (int, error) { return unix.Open(path, flag|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// duplicate returns a second descriptor of the file, non-blocking and in Go's
// poller. The non-blocking mode is shared with the first.
func duplicate(file *os.File) (dup *os.File, err error) {
	err = control(file, func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		if err := unix.SetNonblock(n, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		dup = os.NewFile(uintptr(n), file.Name())
		return nil
	})
	return dup, err
}

// end of a pipe that is the shim's, the other one being a process's.
type end int

const (
	neither end = -1
	reading end = 0
	writing end = 1
)

// newPipe makes a pipe that is owned by uid:gid, so that the process may open
// /dev/stdout again. The shim's end is non-blocking and in Go's poller; those
// of processes are blocking, as they expect it.
func newPipe(name string, ours end, uid, gid uint32) (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("%s: pipe: %w", name, err)
	}
	err = unix.Fchown(p[0], int(uid), int(gid))
	if err == nil && ours != neither {
		err = unix.SetNonblock(p[ours], true)
	}
	r, w = os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name)
	if err != nil {
		closeAll(r, w)
		return nil, nil, fmt.Errorf("%s: pipe of %d:%d: %w", name, uid, gid, err)
	}
	return r, w, nil
}

// closeAll closes files whose data needs no confirmation: pipes, FIFOs and
// terminals, or nil. Files that are closed already are left alone.
func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
