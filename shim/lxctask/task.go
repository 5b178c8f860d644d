package lxctask

import (
	"context"
	"fmt"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
)

// process is a process whose exit is also an event: reported is closed when
// the event has been queued. Who waits for a process waits for that, so that
// nothing a client does on an exit can overtake the event.
type process struct {
	*lxc.Process
	reported chan struct{}
	once     sync.Once
}

func newProcess(p *lxc.Process) *process {
	return &process{Process: p, reported: make(chan struct{})}
}

// report says that the exit has been queued, or that there will be none.
func (p *process) report() { p.once.Do(func() { close(p.reported) }) }

// task is a container with the order of its events.
type task struct {
	*lxc.Container
	init *process

	// starting is held from the start of the init process to its event, and
	// for the event of its exit: start comes before exit.
	starting sync.Mutex

	// oom keeps TaskOOM behind TaskStart.
	oom oomOrder

	mu      sync.Mutex // guards what follows
	execs   map[string]*process
	running int  // execs started, whose exit is not reported yet
	ended   bool // the init process has exited: no exec starts any more
	idle    *sync.Cond
}

// oomOrder holds back the event of an OOM kill until that of the start: a
// process may be killed while its Start has not answered yet.
type oomOrder struct {
	mu      sync.Mutex
	started bool
	held    func() // publishes the event; nil if there was none
}

// report publishes an OOM kill, now or after the start.
func (o *oomOrder) report(publish func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.started {
		o.held = publish
		return
	}
	publish()
}

// pass lets through what was held back, and what comes.
func (o *oomOrder) pass() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started = true
	if o.held != nil {
		o.held()
		o.held = nil
	}
}

func newTask(c *lxc.Container) *task {
	t := &task{Container: c, init: newProcess(c.Init), execs: map[string]*process{}}
	t.idle = sync.NewCond(&t.mu)
	return t
}

func (t *task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.execs[execID]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("process does not exist %s: %w", execID, errdefs.ErrNotFound)
}

// addExec adds a process; ErrAlreadyExists if there is one with this id.
func (t *task) addExec(id string, spec *specs.Process, stdio lxc.Stdio) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.execs[id]; ok {
		return fmt.Errorf("id %s: %w", id, errdefs.ErrAlreadyExists)
	}
	p, err := t.Exec(id, spec, stdio)
	if err != nil {
		return err
	}
	t.execs[id] = newProcess(p)
	return nil
}

// execIDs returns the ids of the started execs by pid.
func (t *task) execIDs() map[int]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make(map[int]string, len(t.execs))
	for id, p := range t.execs {
		ids[p.Pid()] = id
	}
	return ids
}

func (t *task) deleteExec(ctx context.Context, p *process) error {
	if err := t.DeleteExec(ctx, p.Process); err != nil {
		return err
	}
	p.report() // of one that never ran, whoever waits is told
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.execs, p.ID)
	return nil
}

// enter counts an exec that is about to start.
func (t *task) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return fmt.Errorf("container %s init process is not running: %w", t.ID(), errdefs.ErrFailedPrecondition)
	}
	t.running++
	return nil
}

func (t *task) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	t.idle.Broadcast()
}

// end waits until the exit of every exec has been reported, after the init
// process has exited.
func (t *task) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for t.running > 0 {
		t.idle.Wait()
	}
}

func (t *task) status(p *process) tasktypes.Status {
	status := p.Status()
	// A paused container pauses all its processes.
	if t.Init.Status() == lxc.Paused && status == lxc.Running {
		status = lxc.Paused
	}
	switch status {
	case lxc.Created:
		return tasktypes.Status_CREATED
	case lxc.Running:
		return tasktypes.Status_RUNNING
	case lxc.Paused:
		return tasktypes.Status_PAUSED
	default:
		return tasktypes.Status_STOPPED
	}
}

func (s *Service) startInit(ctx context.Context, t *task) error {
	t.starting.Lock()
	defer t.starting.Unlock()
	if err := t.Start(ctx); err != nil {
		return err
	}
	s.publish(ctx, &eventstypes.TaskStart{ContainerID: t.ID(), Pid: uint32(t.init.Pid())})
	t.oom.pass()
	return nil
}

// reportInit publishes the exit of the container: after every exec's.
func (s *Service) reportInit(ctx context.Context, t *task) {
	<-t.init.Exited()
	t.end()
	t.starting.Lock()
	defer t.starting.Unlock()
	s.oom.Flush(t.ID())
	t.oom.pass() // of one that was never started
	s.reportExit(ctx, t, t.init, t.ID())
}

func (s *Service) startExec(ctx context.Context, t *task, p *process) error {
	if err := t.enter(); err != nil {
		return err
	}
	if err := t.StartExec(ctx, p.Process); err != nil {
		t.leave()
		return err
	}
	s.publish(ctx, &eventstypes.TaskExecStarted{ContainerID: t.ID(), ExecID: p.ID, Pid: uint32(p.Pid())})
	go func() {
		<-p.Exited()
		s.reportExit(context.WithoutCancel(ctx), t, p, p.ID)
		t.leave()
	}()
	return nil
}

func (s *Service) reportExit(ctx context.Context, t *task, p *process, id string) {
	exit := p.Exit()
	s.publish(ctx, &eventstypes.TaskExit{
		ContainerID: t.ID(),
		ID:          id,
		Pid:         uint32(p.Pid()),
		ExitStatus:  uint32(exit.Status),
		ExitedAt:    protobuf.ToTimestamp(exit.At),
	})
	p.report()
}

func (s *Service) deleteInit(ctx context.Context, t *task) error {
	if err := t.Delete(ctx); err != nil {
		return err
	}
	<-t.init.reported
	s.oom.Remove(t.ID())
	s.mu.Lock()
	delete(s.tasks, t.ID())
	s.mu.Unlock()
	exit := t.init.Exit()
	s.publish(ctx, &eventstypes.TaskDelete{
		ContainerID: t.ID(),
		Pid:         uint32(t.init.Pid()),
		ExitStatus:  uint32(exit.Status),
		ExitedAt:    protobuf.ToTimestamp(exit.At),
	})
	return nil
}
