// Package monitor receives the exit statuses that LXC broadcasts. It is for
// kernels that do not keep a process's exit status for its pidfd.
//
// lxc-start writes the state changes and the exit status of its container into
// a FIFO, from where lxc-monitord sends them to all of its clients. There is
// one lxc-monitord for a lxcpath; nothing is stored, so one must be connected
// before the container is started. This package knows no containers but
// their names.
package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// message is struct lxc_msg of LXC's monitor.h, the same from LXC 1.0 to 6.0.
type message struct {
	Type  int32
	Name  [256]byte // ends with NUL
	Value int32
}

// Types of messages, and the one state of interest.
const (
	typeState    = 0
	typePriority = 1 // of lxc_monitor, unused since LXC 1.0
	typeExitCode = 2
	starting     = 1
)

// fifoDir is below root's runtime directory (lxc_monitor_fifo_name).
const fifoDir = "/run/lxc"

// reconnects bounds how often a watcher looks for a new lxc-monitord when its
// own has died.
const reconnects = 3

// Watcher waits for the exit status of one container.
type Watcher struct {
	lxcpath string
	name    string
	status  chan unix.WaitStatus // gets the first one
	passed  chan struct{}        // gets one when the mark of Mark has come back
	done    chan struct{}        // closed when nothing more is read
	err     error                // why; written before done is closed

	mu     sync.Mutex // of what follows, until closed
	lock   *lock
	conn   net.Conn
	closed bool
}

// Watch connects to the lxc-monitord of a lxcpath, starting one if there is
// none. Only of a container that is started after Watch has returned the
// status is certain to arrive. The watcher must be closed.
func Watch(ctx context.Context, lxcpath, name string) (_ *Watcher, retErr error) {
	l, err := acquire(lxcpath)
	if err != nil {
		return nil, fmt.Errorf("lxc-monitord of %s: %w", lxcpath, err)
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(fmt.Errorf("lxc-monitord of %s: %w", lxcpath, retErr), l.leave(nil))
		}
	}()
	if err := l.use(); err != nil {
		return nil, err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.exit(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	w := &Watcher{
		lxcpath: lxcpath, name: name,
		status: make(chan unix.WaitStatus, 1), passed: make(chan struct{}, 1), done: make(chan struct{}),
		lock: l, conn: conn,
	}
	go w.run(context.WithoutCancel(ctx), conn)
	return w, nil
}

// Exit waits for the wait status of the container's init process. It fails
// when ctx is done, or when lxc-monitord has died and there is no other.
func (w *Watcher) Exit(ctx context.Context) (unix.WaitStatus, error) {
	select {
	case s := <-w.status:
		return s, nil
	case <-w.done:
	case <-ctx.Done():
	}
	select {
	case s := <-w.status: // both at once
		return s, nil
	default:
	}
	if err := context.Cause(ctx); err != nil {
		return 0, fmt.Errorf("no exit status of %s from lxc-monitord: %w", w.name, err)
	}
	return 0, fmt.Errorf("no exit status of %s from lxc-monitord: %w", w.name, w.err)
}

// Mark returns when everything that was broadcast until now has arrived: the
// exit status of a container whose lxc-start has ended, or never. It sends a
// message of its own through lxc-monitord's FIFO, which keeps the order, however
// long lxc-monitord takes.
func (w *Watcher) Mark(ctx context.Context) error {
	m := message{Type: typePriority}
	copy(m.Name[:len(m.Name)-1], w.mark())
	if err := tell(w.lxcpath, m); err != nil {
		return err
	}
	select {
	case <-w.passed:
		return nil
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mark is no container's name: those have no slash.
func (w *Watcher) mark() string { return "nexcage/" + w.name }

// tell writes a message for all clients, as lxc-start does (LXC's
// monitor.c, lxc_monitor_fifo_send; one write of less than PIPE_BUF).
func tell(lxcpath string, m message) error {
	fifo, err := os.OpenFile(filepath.Join(fifoDir, lxcpath, "monitor-fifo"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err // ENXIO: nobody reads
	}
	return errors.Join(binary.Write(fifo, binary.NativeEndian, m), fifo.Close())
}

// Close ends the watch. The last watcher of a lxcpath, whichever process it is
// in, ends the lxc-monitord that one of them started.
func (w *Watcher) Close() error {
	w.mu.Lock()
	closed := w.closed
	w.closed = true // from here on lock and connection are ours
	w.mu.Unlock()
	if closed {
		return nil
	}
	if err := w.lock.enter(); err != nil {
		return errors.Join(err, w.conn.Close(), w.lock.file.Close())
	}
	return w.lock.leave(&client{w.conn, w.done})
}

// run reads until the watcher is closed: a client that does not read would
// hold up lxc-monitord, and with it every container.
func (w *Watcher) run(ctx context.Context, conn net.Conn) {
	defer close(w.done)
	begun := false
	for attempt := 0; ; attempt++ {
		err := w.read(conn, &begun)
		if conn, err = w.reconnect(ctx, err, attempt); err != nil {
			w.err = err
			return
		}
	}
}

// read handles messages until the connection ends.
func (w *Watcher) read(conn net.Conn, begun *bool) error {
	for {
		var m message
		if err := binary.Read(conn, binary.NativeEndian, &m); err != nil {
			return err
		}
		name, _, _ := strings.Cut(string(m.Name[:]), "\x00")
		switch {
		case name == w.mark():
			select {
			case w.passed <- struct{}{}:
			default:
			}
		case name != w.name:
		case m.Type == typeState && m.Value == starting:
			*begun = true
		case m.Type == typeExitCode && *begun: // not of a predecessor of the same name
			select {
			case w.status <- unix.WaitStatus(m.Value):
			default: // the container was started again, as LXC does after SIGHUP
			}
		}
	}
}

// reconnect finds or starts another lxc-monitord. Between the end of one and
// the start of the next, messages are lost.
func (w *Watcher) reconnect(ctx context.Context, cause error, attempt int) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, os.ErrClosed
	}
	if attempt == reconnects {
		return nil, cause
	}
	if err := w.lock.enter(); err != nil {
		return nil, errors.Join(cause, err)
	}
	conn, err := w.lock.connect(ctx)
	if err := errors.Join(err, w.lock.exit()); err != nil {
		return nil, errors.Join(cause, err)
	}
	_ = w.conn.Close() // it has ended
	w.conn = conn
	return conn, nil
}
