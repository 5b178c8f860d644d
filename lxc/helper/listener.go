package helper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socketName is where the helper looks, in the directory of its own file.
const socketName = "sock"

// Listener waits for the helper of one container.
type Listener struct {
	l   *net.UnixListener
	dir *os.File
}

// Listen makes the socket in dir, which only root may enter, and which the
// container sees as the directory of the helper. A socket that is there
// already is an error, as is a directory that is not there.
func Listen(dir string) (*Listener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("directory of the helper's socket: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	d := os.NewFile(uintptr(fd), dir)
	l, err := listenAt(fd)
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("socket of the helper in %s: %w", dir, err)
	}
	return &Listener{l: l, dir: d}, nil
}

// listenAt binds by a path that is short enough for any directory.
func listenAt(dir int) (*net.UnixListener, error) {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, socketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then path may mean another directory
	if err := unix.Fchmodat(dir, socketName, 0o600, 0); err != nil {
		return nil, errors.Join(err, unix.Unlinkat(dir, socketName, 0), l.Close())
	}
	return l, nil
}

// Own lets a process connect that is root in a user namespace: uid and gid are
// what the host knows its root as.
func (l *Listener) Own(uid, gid uint32) error {
	if err := unix.Fchownat(int(l.dir.Fd()), socketName, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner of the helper's socket: %w", err)
	}
	return nil
}

// Accept waits for the helper, and removes the socket: a container that LXC
// starts again by itself finds nobody. When ctx ends it returns its error.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = l.l.SetDeadline(time.Unix(1, 0)) // fails only when closed: ends Accept as well
	})
	defer stop()
	c, err := l.l.AcceptUnix()
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("waiting for the helper: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("waiting for the helper: %w", err)
	}
	if err := l.Close(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return newConn(c)
}

// Close stops listening and removes the socket. It may be called twice.
func (l *Listener) Close() error {
	err := l.l.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return errors.Join(err, unlink(l.dir), l.dir.Close())
}

func unlink(dir *os.File) error {
	err := unix.Unlinkat(int(dir.Fd()), socketName, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the helper's socket: %w", err)
	}
	return nil
}
