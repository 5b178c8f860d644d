// Package pidfd waits for, and signals, processes by pidfd: safe against
// reuse of the pid, and without being the parent.
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrNoStatus means that the process has ended, but that this kernel does not
// tell how (before Linux 6.15).
var ErrNoStatus = errors.New("the kernel does not keep the exit status")

// KeepsStatus says whether this kernel keeps the exit status for Wait.
//
// The release decides, not an attempt: PIDFD_INFO_EXIT cannot be seen in the
// answer for a process that lives, so that it would take a child, started and
// reaped, in every shim. A kernel of a lower release that has it by backport
// is taken for one that has not, which costs time only.
var KeepsStatus = sync.OnceValue(func() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	return atLeast(unix.ByteSliceToString(u.Release[:]), 6, 15)
})

// atLeast compares a kernel release, "6.1.0-18-amd64", with a version.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// Open returns a pidfd for a process (pidfd_open(2)), in non-blocking mode, so
// that Wait costs no thread. ErrNotFound if there is no such process.
func Open(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if isMissing(pid, err) {
			return nil, fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)), nil
}

// isMissing knows the answers of pidfd_open(2) for a process that is not there.
// If the number is still the group's or session's of others, or now a thread's,
// kernels before 6.16 answer EINVAL, later ones ESRCH or ENOENT.
func isMissing(pid int, err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || pid > 0 && errors.Is(err, unix.EINVAL)
}

// Signal sends a signal. ErrNotFound if the process has ended.
func Signal(f *os.File, sig unix.Signal) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return serr
}

// Wait waits until the process has ended and its parent has reaped it, and
// returns its wait status. ErrNoStatus if the kernel does not tell. Closing f
// ends the wait with os.ErrClosed.
func Wait(f *os.File) (unix.WaitStatus, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var status unix.WaitStatus
	var ierr error
	err = conn.Read(func(fd uintptr) (done bool) {
		status, done, ierr = exitInfo(int(fd))
		return done
	})
	if err != nil {
		return 0, err
	}
	return status, ierr
}

// WaitDead waits until the process has ended; its parent may not have reaped
// it yet.
func WaitDead(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, perr = unix.Poll(fds, 0); errors.Is(perr, unix.EINTR) {
			perr = nil
			return false
		}
		return perr != nil || fds[0].Revents != 0
	})
	return errors.Join(err, perr)
}

// WaitGone waits until the process has been reaped, or until ctx is done.
func WaitGone(ctx context.Context, f *os.File) error {
	if err := f.SetReadDeadline(time.Time{}); err != nil { // left by a wait before
		return err
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = f.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-expired
		}
	}()
	_, err := Wait(f)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	if errors.Is(err, ErrNoStatus) {
		return nil
	}
	return err
}

// info is struct pidfd_info of linux/pidfd.h, version 0.
type info struct {
	mask     uint64
	cgroup   uint64
	pid      uint32
	tgid     uint32
	ppid     uint32
	ids      [8]uint32
	exitCode int32
}

const (
	infoExit = 1 << 3     // PIDFD_INFO_EXIT, Linux 6.15
	getInfo  = 0xc040ff0b // PIDFD_GET_INFO: _IOWR(0xff, 11, struct pidfd_info)
)

// exitInfo reports the wait status once the process has been reaped.
func exitInfo(fd int) (status unix.WaitStatus, done bool, err error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0, !errors.Is(err, unix.EINTR), err
	}
	if fds[0].Revents == 0 {
		return 0, false, nil
	}
	i := info{mask: infoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&i)))
	if errno == 0 && i.mask&infoExit != 0 {
		return unix.WaitStatus(i.exitCode), true, nil
	}
	if fds[0].Revents&unix.POLLHUP == 0 && errno != unix.ENOTTY {
		// A zombie, which its parent will reap, or does just now; then there
		// may be neither a process nor a status for a moment (ESRCH).
		return 0, false, nil
	}
	return 0, true, ErrNoStatus
}
