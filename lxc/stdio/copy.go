package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// What a mover could not do at the moment.
var (
	errSourceEmpty     = errors.New("source is empty")
	errDestinationFull = errors.New("destination is full")
)

// mover moves bytes from a source to a destination, without waiting for
// either.
type mover interface {
	// move moves at most limit bytes. It returns nil after progress,
	// errSourceEmpty or errDestinationFull when there was none, io.EOF at
	// the end of the source, or what went wrong. The count is of bytes
	// taken from the source.
	move(limit int) (int, error)
	// busy tells whether rest is to be called when the source has been empty
	// for idleTime.
	busy() bool
	rest()
	// end releases what the mover holds while data is under way, and
	// reports what it had to drop.
	end() error
}

// copier runs one mover in one goroutine, which is parked in Go's poller while
// there is nothing to do: an idle stream has no thread of its own.
type copier struct {
	name     string
	src, dst *os.File
	mover    mover
	// flush makes a stopped copier copy what its source held at that moment.
	flush bool
	// onEnd runs in the copier's goroutine when nothing more is copied; it
	// closes the files. err is nil after EOF or stop.
	onEnd func(c *copier, err error)

	stopping atomic.Bool
	stopped  chan struct{} // closed by stop
	done     chan struct{}
	err      error // written before done is closed
}

func (c *copier) start() *copier {
	c.stopped, c.done = make(chan struct{}), make(chan struct{})
	go c.run()
	return c
}

// stop ends the copier, which closes done soon after.
func (c *copier) stop() {
	if c.stopping.CompareAndSwap(false, true) {
		close(c.stopped)
	}
	c.wake()
}

// wake makes a parked copier look around.
func (c *copier) wake() {
	// Files that the poller cannot watch do not park the copier either, and
	// the files of a copier that has ended are closed.
	_ = c.src.SetReadDeadline(time.Unix(1, 0))
	_ = c.dst.SetWriteDeadline(time.Unix(1, 0))
}

func (c *copier) run() {
	defer close(c.done)
	err := c.copy()
	if errors.Is(err, errStopped) {
		err = nil
		if c.flush {
			err = c.remainder()
		}
	}
	if lost := c.mover.end(); err == nil {
		err = lost
	}
	if err != nil {
		c.err = fmt.Errorf("copy %s: %w", c.name, err)
	}
	c.onEnd(c, err)
}

// wait waits for the end of the copier, and returns its error.
func (c *copier) wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	default:
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%s: output is still open: %w", c.name, ctx.Err())
	}
}

var errStopped = errors.New("stopped")

// copy returns nil at the end of the source.
func (c *copier) copy() error {
	src, err := c.src.SyscallConn()
	if err != nil {
		return err
	}
	dst, err := c.dst.SyscallConn()
	if err != nil {
		return err
	}
	var state error
	// The attempts are made inside of Read and Write: whatever changes after
	// the attempt wakes the wait that follows it.
	reading := func(uintptr) bool {
		state = c.moveAll()
		if state == errSourceEmpty && c.mover.busy() {
			state = c.limitIdleness()
		}
		return state != errSourceEmpty
	}
	writing := func(uintptr) bool { state = c.moveAll(); return state != errDestinationFull }
	for state == nil || state == errSourceEmpty || state == errDestinationFull {
		conn, wait := src.Read, reading
		if state == errDestinationFull {
			conn, wait = dst.Write, writing
		}
		if err := conn(wait); errors.Is(err, os.ErrDeadlineExceeded) {
			c.interrupted()
		} else if err != nil {
			return err
		}
	}
	if state == io.EOF {
		return nil
	}
	return state
}

// limitIdleness makes the coming wait end after idleTime. It may have replaced
// the deadline of a wake, whose reason is looked for therefore.
func (c *copier) limitIdleness() error {
	_ = c.src.SetReadDeadline(time.Now().Add(idleTime))
	if c.stopping.Load() {
		return errStopped
	}
	return errSourceEmpty
}

// interrupted undoes wake, whose reason is looked for afterwards.
func (c *copier) interrupted() {
	_ = c.src.SetReadDeadline(time.Time{})
	_ = c.dst.SetWriteDeadline(time.Time{})
	if c.mover.busy() {
		c.mover.rest()
	}
}

// moveAll moves until something is in the way, and says what.
func (c *copier) moveAll() error {
	for {
		if c.stopping.Load() {
			return errStopped
		}
		if _, err := c.mover.move(maxMove); err != nil {
			return err
		}
	}
}

// remainder moves what the source holds now, as far as the destination takes it.
// A source that is written to all the time has an end, too.
func (c *copier) remainder() error {
	for left := maxMove; ; {
		n, err := c.mover.move(left)
		left -= n
		switch err {
		case nil:
		case errSourceEmpty, io.EOF:
			return nil
		case errDestinationFull:
			return errReaderStuck
		default:
			return err
		}
	}
}

// idleTime is when a stream counts as idle.
const idleTime = time.Second

// maxMove is what one system call is asked to move: as much as a pipe holds.
const maxMove = 1 << 20

var errReaderStuck = errors.New("output was dropped, as nobody reads it")
