// Package helper talks to nexcage-init, the process that becomes the user's
// process: to the first process of a container, which connects to a Listener
// and waits (Conn), and to further ones, which a Joiner starts inside of a
// container (Joined).
//
// It is for package lxc. What the helper is told to do is made by package
// initop; here is only how it is told, and what comes back.
package helper

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is the connection to a helper that waits as the first process of a
// container. It is used by one goroutine at a time; Close may come from any.
type Conn struct {
	*stream
	pid   int
	pidfd *os.File
}

func newConn(c *net.UnixConn) (*Conn, error) {
	pid, fd, err := peer(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process of the helper: %w", err), c.Close())
	}
	pidfd, err := pidfile(fd)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Conn{stream: &stream{conn: c, pidfd: pidfd}, pid: pid, pidfd: pidfd}, nil
}

// PID is the helper's process id, and later the user's process's, in the pid
// namespace of the caller.
func (c *Conn) PID() int { return c.pid }

// PIDFD refers to the same process. The runtime's poller knows it: wait with
// SyscallConn, not Fd. It is the caller's, and stays open after Close.
func (c *Conn) PIDFD() *os.File { return c.pidfd }

// peer returns the pid and a pidfd of the process at the other end.
func peer(c *net.UnixConn) (pid, pidfd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, -1, err
	}
	ctrlErr := raw.Control(func(fd uintptr) {
		pid, pidfd, err = peerOf(int(fd))
	})
	return pid, pidfd, errors.Join(ctrlErr, err)
}

func peerOf(fd int) (pid, pidfd int, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, -1, os.NewSyscallError("SO_PEERCRED", err)
	}
	if cred.Pid == 0 {
		return 0, -1, errors.New("it is not in this pid namespace")
	}
	pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 6.5
		pidfd, err = pidfdOfConnected(fd, int(cred.Pid))
	}
	return int(cred.Pid), pidfd, os.NewSyscallError("SO_PEERPIDFD", err)
}

// pidfdOfConnected opens a pidfd by number. The number is still the peer's if
// the peer has not closed its end, which it only does by ending.
func pidfdOfConnected(fd, pid int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if n == 0 && err == nil {
		err = unix.ESRCH
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}
