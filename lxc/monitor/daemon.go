package monitor

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// maxSocketName is the longest name without the leading NUL. LXC before 5.0
// cuts longer ones off, LXC 5.0 fails.
const maxSocketName = 104

// socketName is lxc-monitord's socket in the abstract namespace (LXC's
// monitor.c, lxc_monitor_sock_name).
func socketName(lxcpath string) (string, error) {
	h := fnv.New64a()
	fmt.Fprintf(h, "lxc/%s/monitor-sock", lxcpath)
	name := fmt.Sprintf("lxc/%016x/%s", h.Sum64(), lxcpath)
	if tooMany := len(name) - maxSocketName; tooMany > 0 {
		return "", fmt.Errorf("the path is %d characters too long for lxc-monitord: %w", tooMany, errdefs.ErrInvalidArgument)
	}
	return "@" + name, nil
}

// programs are where distributions put lxc-monitord, as patterns.
var programs = []string{"/usr/libexec/lxc/lxc-monitord", "/usr/lib/*/lxc/lxc-monitord", "/usr/lib/lxc/lxc-monitord"}

func program() (string, error) {
	for _, pattern := range programs {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("lxc-monitord is in none of %q: %w", programs, errdefs.ErrFailedPrecondition)
}

// startTimeout bounds the start of lxc-monitord, which takes some ms.
const startTimeout = 10 * time.Second

// connect connects to the lxc-monitord, starting it if there is none. The lock
// must be entered.
func (l *lock) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := dial(ctx, l.lxcpath)
	if err == nil {
		return conn, nil
	}
	// There is none, or it ends just now.
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return nil, err
	}
	started := l.start(ctx)
	// If somebody who knows nothing of the lock started one at the same time,
	// ours has failed.
	conn, err = dial(ctx, l.lxcpath)
	if err != nil {
		return nil, errors.Join(started, err)
	}
	return conn, nil
}

// dial connects, and waits until lxc-monitord knows of it: what it broadcasts
// before it has accepted a connection does not arrive there.
func dial(ctx context.Context, lxcpath string) (net.Conn, error) {
	address, err := socketName(lxcpath)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = awaitAccept(conn.(*net.UnixConn))
	if err != nil || !stop() {
		return nil, errors.Join(err, ctx.Err(), conn.Close())
	}
	return conn, nil
}

// requests are more than the smallest send buffer of a socket holds, about 6;
// each is what lxc-monitord reads at once, and passes over as it is not "quit".
const requests = 32

// awaitAccept waits until the peer has read something. There is no answer to
// wait for; but more than the socket holds can be written only then.
func awaitAccept(conn *net.UnixConn) error {
	if err := conn.SetWriteBuffer(1); err != nil { // the kernel's minimum
		return err
	}
	for range requests {
		if _, err := conn.Write([]byte("here")); err != nil {
			return fmt.Errorf("lxc-monitord does not accept: %w", err)
		}
	}
	return nil
}

// start starts lxc-monitord, and waits until it listens: it says so by a byte
// in a pipe.
func (l *lock) start(ctx context.Context) error {
	path, err := program()
	if err != nil {
		return err
	}
	ready, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(path, l.lxcpath, "3")
	cmd.ExtraFiles = []*os.File{end}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it serves other shims too
	daemon, err := child.Start(cmd)
	_ = end.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	log.G(ctx).WithField("argv", cmd.Args).WithField("pid", daemon.Pid()).Debug("started lxc-monitord")
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = ready.Read(make([]byte, 1))
	if err == nil {
		return l.record(daemon.Pid())
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s does not get ready: %w", path, err)
	}
	exit, err := daemon.Wait(ctx)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: exit status %d", path, exit.Status)
}

// peer is the process that listens at the other end.
func peer(conn net.Conn) (pid int, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return int(cred.Pid), nil
}
