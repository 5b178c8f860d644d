package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
)

// addressFile has the shim's address, in the bundle.
const addressFile = "address"

// groupPrefix keeps our groups apart from those of the runc shim, which makes
// its addresses in the same way, and must not be taken for one of ours.
const groupPrefix = "io.containerd.nexcage.v2/"

// findTimeout bounds the wait for the end of a shim that does not take the
// container any more.
const findTimeout = 10 * time.Second

// find returns the address of the group's shim, and starts it if there is
// none; then answered is to be called when containerd has its address. The
// shim that was found knows that the container is coming.
func (r *request) find(ctx context.Context, group string) (address string, answered func() error, err error) {
	dir := r.socketDir
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err = shim.CreateSocketAddress(ctx, dir, r.Address, groupPrefix+group, false)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	for {
		socket, err := claim(dir, address)
		if err != nil {
			return "", nil, fmt.Errorf("shim socket: %w", err)
		}
		if socket != nil {
			answered, err := r.serve(address, socket)
			return address, answered, err
		}
		if err := announce(ctx, address, r.ID); !errors.Is(err, errEnding) || ctx.Err() != nil {
			nothing := func() error { return nil }
			return address, nothing, errors.Join(err, writeAddress(address))
		}
		// The shim that ends closes its socket next.
	}
}

// serve starts the shim on its new socket.
func (r *request) serve(address string, socket *net.UnixListener) (answered func() error, err error) {
	defer socket.Close()
	socket.SetUnlinkOnClose(false) // it is the server's
	if err = writeAddress(address); err == nil {
		answered, err = r.startServer(socket)
	}
	if err != nil {
		err = errors.Join(err, shim.RemoveSocket(address))
	}
	return answered, err
}

// writeAddress writes the file by which containerd 1.x finds the shim again,
// and the delete verb the socket.
func writeAddress(address string) error {
	return os.WriteFile(addressFile, []byte(address), 0o600)
}

// claim makes the socket at address, for root only; nil if a shim serves it.
func claim(dir, address string) (*net.UnixListener, error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	socket, err := shim.NewSocket(address)
	if err == nil || !shim.SocketEaddrinuse(err) {
		return socket, err
	}
	served, err := removeDead(pathOf(address))
	if served || err != nil {
		return nil, err
	}
	return shim.NewSocket(address)
}

// RemoveSocket removes the socket of the bundle's shim if that has died
// without doing so itself.
func RemoveSocket(bundle string) error {
	address, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has come to the shim of its pod
	}
	if err != nil {
		return err
	}
	path := pathOf(string(address))
	if _, err := os.Lstat(path); err != nil {
		return ignoreNotExist(err)
	}
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	_, err = removeDead(path)
	return err
}

// removeDead removes a socket that nobody serves. It needs the lock.
func removeDead(path string) (served bool, err error) {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, unix.EAGAIN): // many are before us
		return true, nil
	case errors.Is(err, unix.ECONNREFUSED):
		return false, ignoreNotExist(os.Remove(path))
	default:
		return false, ignoreNotExist(err)
	}
}

// lock keeps others of us out of the sockets in dir: between bind(2) and
// listen(2) a socket cannot be told from that of a shim that has died. The
// lock leaves no file behind.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func pathOf(address string) string { return strings.TrimPrefix(address, "unix://") }

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
