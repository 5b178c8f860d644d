package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// poller is an epoll instance that is itself waited for by Go's poller, so
// that waiting costs a goroutine and no thread. Go's own would not do: a file
// of a control group is always readable, and says by POLLPRI that it has
// changed (Linux 2.6.33 for kernfs; for cgroup.events, memory.events).
type poller struct{ epoll *os.File }

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go polls it
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &poller{os.NewFile(uintptr(fd), "epoll")}, nil
}

// control is epoll_ctl(2); token comes back from wait.
func (p *poller) control(op, fd int, events uint32, token int32) error {
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = conn.Control(func(epfd uintptr) {
		cerr = unix.EpollCtl(int(epfd), op, fd, &unix.EpollEvent{Events: events, Fd: token})
	})
	return errors.Join(err, os.NewSyscallError("epoll_ctl", cerr))
}

// wait returns the tokens of the descriptors that have something to tell.
// Close ends it with os.ErrClosed.
func (p *poller) wait() ([]int32, error) {
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		return nil, err
	}
	var events [64]unix.EpollEvent
	var n int
	var werr error
	err = conn.Read(func(epfd uintptr) bool {
		n, werr = unix.EpollWait(int(epfd), events[:], 0)
		if errors.Is(werr, unix.EINTR) {
			n, werr = 0, nil
		}
		return n > 0 || werr != nil
	})
	if err = errors.Join(err, os.NewSyscallError("epoll_wait", werr)); err != nil {
		return nil, err
	}
	var tokens []int32
	for _, e := range events[:n] {
		tokens = append(tokens, e.Fd)
	}
	return tokens, nil
}

func (p *poller) close() error { return p.epoll.Close() }

// watched is a file of a v2 group that the kernel tells the changes of.
type watched struct {
	file *os.File
	*poller
}

func watchFile(path string) (_ *watched, retErr error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			_ = f.Close()
		}
	}()
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	if err := p.control(unix.EPOLL_CTL_ADD, int(f.Fd()), unix.EPOLLPRI|unix.EPOLLET, 0); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return &watched{f, p}, nil
}

// until reads the file, now and after each change, until done says so.
func (w *watched) until(ctx context.Context, done func(text string) bool) error {
	stop := context.AfterFunc(ctx, func() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		n, err := w.file.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return err
		}
		if done(string(buf[:n])) {
			return nil
		}
		if _, err := w.wait(); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w", w.file.Name(), ctx.Err())
			}
			return err
		}
	}
}

func (w *watched) close() error { return errors.Join(w.poller.close(), w.file.Close()) }
