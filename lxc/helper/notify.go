package helper

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
)

// handOver takes the listener of the filter that the helper has just loaded,
// gives it to Notify, and lets the helper go on. A helper whose listener
// nobody has must not: each call that the filter is about would wait forever.
func (s *stream) handOver(ctx context.Context, r reply) error {
	err := s.notify(ctx, int(r.value))
	if err == nil {
		_, err = s.conn.Write([]byte{0})
	}
	if err != nil {
		kill := pidfd.Signal(s.pidfd, unix.SIGKILL)
		if errors.Is(kill, errdefs.ErrNotFound) {
			kill = nil
		}
		err = errors.Join(err, kill)
	}
	return err
}

func (s *stream) notify(ctx context.Context, number int) error {
	if s.Notify == nil {
		return fmt.Errorf("a seccomp listener, and nobody who takes it: %w", errdefs.ErrInternal)
	}
	listener, err := take(s.pidfd, number)
	if err != nil {
		return fmt.Errorf("take the seccomp listener: %w", err)
	}
	defer listener.Close()
	return s.Notify(ctx, listener)
}

// take duplicates a descriptor of another process.
func take(process *os.File, number int) (*os.File, error) {
	conn, err := process.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var taken error
	err = conn.Control(func(pidfd uintptr) { fd, taken = unix.PidfdGetfd(int(pidfd), number, 0) })
	if err = errors.Join(err, os.NewSyscallError("pidfd_getfd", taken)); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "seccomp listener"), nil
}
