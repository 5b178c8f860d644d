// Package child starts and watches the child processes of a shim.
//
// The shim is a subreaper, and one loop collects every child that ends, own
// or inherited (containerd's pkg/sys/reaper). So nobody may call wait(2) by
// himself, exec.Cmd.Wait included: a process is started, or adopted, here, and
// its exit status is delivered to whoever holds the Child.
package child

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Status int // exit code, or 128 + signal
	At     time.Time
}

// Child is a process whose parent is the shim.
type Child struct {
	pid  int
	done chan struct{}
	exit Exit // written before done is closed
}

// Pid is the process id in the shim's pid namespace.
func (c *Child) Pid() int { return c.pid }

// Done is closed when the process has ended and was reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exit returns how the process ended; only valid after Done is closed.
func (c *Child) Exit() Exit { return c.exit }

// Wait waits until the process has ended.
func (c *Child) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-c.done:
		return c.exit, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// Reap collects ended children until ctx is done. A process that uses this
// package runs it once.
func Reap(ctx context.Context) {
	sig := make(chan os.Signal, 32)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	_ = reaper.Reap() // who ended before gave no signal
	for {
		select {
		case <-ctx.Done():
			return
		case <-sig:
			_ = reaper.Reap() // reports only ECHILD and the like
		}
	}
}

// table assigns the exits that the reaper reports to children.
type table struct {
	once sync.Once

	mu       sync.Mutex
	children map[int]*Child
	starting int          // children whose pid is not known yet
	early    map[int]Exit // exits seen while starting > 0
}

var children = &table{children: map[int]*Child{}, early: map[int]Exit{}}

func (t *table) run(exits chan runc.Exit) {
	for e := range exits {
		exit := Exit{Status: e.Status, At: e.Timestamp}
		t.mu.Lock()
		if c, ok := t.children[e.Pid]; ok {
			delete(t.children, e.Pid)
			c.finish(exit)
		} else if t.starting > 0 {
			t.early[e.Pid] = exit
		}
		t.mu.Unlock()
	}
}

func (c *Child) finish(e Exit) {
	c.exit = e
	close(c.done)
}

// Expectation is a child that is about to come into being, see Expect.
type Expectation struct {
	t    *table
	once sync.Once
}

// Expect announces a child, so that its exit is not lost when it ends before
// its pid is known. It must be followed by Adopt or Cancel.
func Expect() *Expectation {
	t := children
	t.once.Do(func() { go t.run(reaper.Default.Subscribe()) })
	t.mu.Lock()
	t.starting++
	t.mu.Unlock()
	return &Expectation{t: t}
}

// Adopt says which process the expected child is.
func (e *Expectation) Adopt(pid int) *Child {
	c := &Child{pid: pid, done: make(chan struct{})}
	e.once.Do(func() {
		e.t.mu.Lock()
		defer e.t.mu.Unlock()
		if exit, ok := e.t.early[pid]; ok {
			delete(e.t.early, pid)
			c.finish(exit)
		} else {
			e.t.children[pid] = c
		}
		e.t.leave()
	})
	return c
}

// Cancel says that there will be no child. It does nothing after Adopt.
func (e *Expectation) Cancel() {
	e.once.Do(func() {
		e.t.mu.Lock()
		defer e.t.mu.Unlock()
		e.t.leave()
	})
}

// leave needs t.mu.
func (t *table) leave() {
	if t.starting--; t.starting == 0 {
		clear(t.early)
	}
}

// Start starts cmd. The caller must not call cmd.Wait, and closes what it gave
// to the child itself: cmd's Stdin, Stdout and Stderr must be nil or *os.File,
// as only those need no goroutine of cmd.
func Start(cmd *exec.Cmd) (*Child, error) {
	e := Expect()
	if err := cmd.Start(); err != nil {
		e.Cancel()
		return nil, err
	}
	return e.Adopt(cmd.Process.Pid), nil
}
