package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
)

// addressFile has the shim's address, in the bundle.
const addressFile = "address"

// groupPrefix keeps our groups apart from those of the runc shim, which makes
// its addresses in the same way, and must not be taken for one of ours.
const groupPrefix = "io.containerd.nexcage.v2/"

// find returns the address of the group's shim, and starts it if there is
// none.
func (r *request) find(ctx context.Context, group string) (string, error) {
	dir := r.socketDir
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err := shim.CreateSocketAddress(ctx, dir, r.Address, groupPrefix+group, false)
	if err != nil {
		return "", err
	}
	socket, err := claim(dir, address)
	if err != nil {
		return "", fmt.Errorf("shim socket: %w", err)
	}
	if socket != nil {
		defer socket.Close()
		socket.SetUnlinkOnClose(false) // it is the server's
	}
	// containerd 1.x finds the shim again by this file, and the delete verb
	// the socket.
	if err = os.WriteFile(addressFile, []byte(address), 0o600); err == nil && socket != nil {
		err = r.startServer(socket)
	}
	if err != nil && socket != nil {
		err = errors.Join(err, shim.RemoveSocket(address))
	}
	return address, err
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
