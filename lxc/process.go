package lxc

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/lxc/stdio"
)

// Exit is how a process ended.
type Exit = child.Exit

// Stdio says where containerd wants a process's input and output.
type Stdio struct {
	Stdin, Stdout, Stderr string // URIs, "" for none
	Terminal              bool
}

// drainTimeout bounds the wait for output after the exit of a process, when a
// descendant keeps the pipes open.
const drainTimeout = 10 * time.Second

// Process is a process that containerd knows: the init process of a container
// or an exec.
type Process struct {
	ID    string // "" for the init process
	Stdio Stdio
	spec  *specs.Process

	exited  chan struct{} // closed by finish
	drained chan struct{} // closed when the output has been copied after it

	// mu guards what follows. It is held while the process is started and
	// deleted, so that everybody else sees either before or after.
	mu     sync.Mutex
	status Status
	pid    int
	pidfd  *os.File // nil before the start and after the exit
	io     *stdio.IO
	exit   Exit
}

func newProcess(id string, spec *specs.Process, s Stdio) *Process {
	return &Process{ID: id, Stdio: s, spec: spec, status: Created, exited: make(chan struct{}), drained: make(chan struct{})}
}

// Pid is the process id in the shim's pid namespace; 0 before an exec is
// started.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Status of the process by itself; an exec in a paused container is running.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Exit returns how the process ended, the zero value before.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// finish records the exit, and lets the rest of the output flow. Whoever
// watches the process calls it, once.
func (p *Process) finish(ctx context.Context, e Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	go p.drain(ctx, p.io)
	p.exit = e
	if next, err := p.status.next(actExit); err == nil {
		p.status = next
	}
	p.closePidfd()
	close(p.exited)
}

// closePidfd needs p.mu.
func (p *Process) closePidfd() {
	if p.pidfd != nil {
		_ = p.pidfd.Close() // a pidfd has nothing to flush
		p.pidfd = nil
	}
}

// signal sends a signal to the process alone.
func (p *Process) signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.pidfd != nil:
		return pidfd.Signal(p.pidfd, sig)
	case p.status == Created:
		return fmt.Errorf("process not created: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
}

// Resize sets the size of the process's terminal. Without one it does nothing,
// as clients send the size of their window for every process.
func (p *Process) Resize(width, height uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.io == nil || !p.Stdio.Terminal {
		return nil
	}
	return p.io.Resize(width, height)
}

// CloseStdin makes the process see the end of its input, once what was
// written has been read.
func (p *Process) CloseStdin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.io == nil {
		return nil
	}
	return p.io.CloseStdin()
}

// drain copies what the process wrote, for a bounded time if a descendant
// holds the pipes.
func (p *Process) drain(ctx context.Context, pio *stdio.IO) {
	defer close(p.drained)
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := pio.Drain(ctx); err != nil {
		log.G(ctx).WithError(err).WithField("exec", p.ID).Warn("output cut off: a descendant of the process still has it open")
	}
}

// closeIO closes the stdio of a process that has ended, or never was. It is
// called without p.mu: State and Wait go on meanwhile.
func (p *Process) closeIO(ctx context.Context) error {
	p.mu.Lock()
	pio := p.io
	p.mu.Unlock()
	if pio == nil {
		return nil
	}
	select {
	case <-p.drained:
	case <-ctx.Done():
		return ctx.Err()
	}
	return pio.Close()
}
