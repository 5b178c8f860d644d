package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// A logger whose pipes are closed has loggerGrace to end by itself, then gets
// SIGTERM, and is killed at loggerTimeout, as by the runc shim (which sends
// SIGTERM at once).
const (
	loggerGrace   = 2 * time.Second
	loggerTimeout = 12 * time.Second
)

// logger is a process that takes the output of a container: the binary://
// scheme. It has stdout as descriptor 3, stderr as 4, and 5 to say when it is
// ready.
type logger struct {
	cmd      *exec.Cmd
	child    *child.Child
	out, err *os.File // where stdout and stderr are written

	grace, timeout time.Duration
}

// startLogger starts the logger of t and waits until it is ready. ours is
// writing if the shim itself writes its stdout, or neither.
func startLogger(ctx context.Context, t target, c Config, ours end) (*logger, error) {
	outR, outW, err := newPipe("stdout", ours, c.UID, c.GID)
	if err != nil {
		return nil, err
	}
	defer closeAll(outR)
	errR, errW, err := newPipe("stderr", neither, c.UID, c.GID)
	if err != nil {
		closeAll(outW)
		return nil, err
	}
	defer closeAll(errR)
	l := &logger{out: outW, err: errW, grace: loggerGrace, timeout: loggerTimeout}
	if err := l.start(ctx, t, c, outR, errR); err != nil {
		closeAll(outW, errW)
		return nil, fmt.Errorf("logger %s: %w", t.path, err)
	}
	return l, nil
}

func (l *logger) start(ctx context.Context, t target, c Config, out, err *os.File) error {
	r, w, perr := newPipe("ready", reading, 0, 0)
	if perr != nil {
		return perr
	}
	defer closeAll(r, w)
	l.cmd = exec.Command(t.path, t.args...)
	l.cmd.Env = []string{"CONTAINER_ID=" + c.ID, "CONTAINER_NAMESPACE=" + c.Namespace}
	l.cmd.ExtraFiles = []*os.File{out, err, w}
	if l.child, perr = child.Start(l.cmd); perr != nil {
		return perr
	}
	closeAll(w)
	if perr := awaitReady(ctx, r, t.strict); perr != nil {
		_ = l.cmd.Process.Kill() // fails only if it has ended
		_ = l.cmd.Process.Release()
		return perr
	}
	return nil
}

// awaitReady waits for the end of the pipe or, if strict, for a byte.
func awaitReady(ctx context.Context, r *os.File, strict bool) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	unblock := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer unblock()
	n, err := r.Read(make([]byte, 1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("wait until it is ready: %w", ctx.Err())
	case err != nil && err != io.EOF:
		return fmt.Errorf("wait until it is ready: %w", err)
	case strict && n == 0:
		return errors.New("it did not say that it is ready (it may have crashed or exited prematurely)")
	}
	return nil
}

// stop closes the logger's pipes, and returns once it has ended or has got
// SIGTERM. The channel is closed when it is gone.
func (l *logger) stop() <-chan struct{} {
	closeAll(l.out, l.err)
	began := time.Now()
	gone := make(chan struct{})
	if !l.endsWithin(l.grace) {
		l.signal(syscall.SIGTERM)
	}
	go func() {
		defer close(gone)
		if !l.endsWithin(l.timeout - time.Since(began)) {
			l.signal(syscall.SIGKILL)
		}
		<-l.child.Done()
		_ = l.cmd.Process.Release()
	}()
	return gone
}

func (l *logger) endsWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.child.Done():
		return true
	case <-t.C:
		return false
	}
}

func (l *logger) signal(sig syscall.Signal) {
	// A pidfd: only a process that has ended cannot be signalled.
	_ = l.cmd.Process.Signal(sig)
}
