package crun

import (
	"context"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/log"
)

// exitWait is how long a TaskDelete waits for the TaskExit before it. The
// service has seen the exit when it allows the delete, and queues the event
// after it has written the status to disk.
const exitWait = 2 * time.Second

// oomWait is how long the kernel may take between the notification of an OOM
// and counting it.
const oomWait = 100 * time.Millisecond

// order stands between containerd's service and the Publisher. The service
// wakes whoever waits for an exit before it queues TaskExit, so that a quick
// Delete queues TaskDelete first: order holds it back. It also knows which
// deletes are still to be published, and drops TaskOOM where there was none.
type order struct {
	next       Publisher
	wait       time.Duration
	cgroupRoot string
	// drained is closed when the service has published its last event.
	drained chan struct{}

	mu    sync.Mutex
	tasks map[string]*taskOrder
	// deleting counts the TaskDelete events to come, by container.
	deleting map[string]int
	// waiting are closed when deleting becomes empty.
	waiting []chan struct{}
	closed  bool
}

// taskOrder is the task of a container, from TaskCreate to TaskDelete.
type taskOrder struct {
	pid     uint32 // of the init; 0 while there is none (a checkpoint)
	started bool   // its TaskStart has passed
	exited  bool   // its TaskExit has passed
	memory  string // its memory cgroup, see memoryCgroup
	// held is empty, or begins with the TaskDelete that waits for the
	// exit; behind it is what comes after.
	held  []event
	timer *time.Timer
	// oom is a TaskOOM that the kernel has not confirmed yet.
	oom *event
	// early is a TaskOOM that came before TaskStart, which it follows: the
	// process may be killed while the service has not published its start.
	early *event
}

type event struct {
	ctx   context.Context
	topic string
	id    string // of the container
	event events.Event
}

func newOrder(next Publisher, wait time.Duration) *order {
	return &order{
		next: next, wait: wait, cgroupRoot: hostCgroups, drained: make(chan struct{}),
		tasks: map[string]*taskOrder{}, deleting: map[string]int{},
	}
}

// Publish passes an event on, or keeps it for a moment.
func (o *order) Publish(ctx context.Context, topic string, e events.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	ev := event{ctx: ctx, topic: topic, event: e}
	if c, ok := e.(interface{ GetContainerID() string }); ok {
		ev.id = c.GetContainerID()
	}
	return o.take(ev)
}

// take needs o.mu, as the methods below.
func (o *order) take(ev event) error {
	t := o.tasks[ev.id]
	if t != nil && len(t.held) > 0 && !t.ends(ev.event) && (len(t.held) > 1 || isCreate(ev.event)) {
		t.held = append(t.held, ev) // belongs to the next task of the container
		return nil
	}
	switch e := ev.event.(type) {
	case *eventtypes.TaskCreate:
		o.tasks[ev.id] = &taskOrder{pid: e.Pid, memory: memoryCgroup(o.cgroupRoot, e.Pid)}
	case *eventtypes.TaskStart:
		if t != nil {
			t.pid, t.started = e.Pid, true
			err := o.pass(ev)
			o.followStart(t)
			return err
		}
	case *eventtypes.TaskExit:
		if t != nil && t.ends(e) {
			t.exited = true
			if t.early != nil { // never started
				t.oom, t.early = t.early, nil
			}
			o.confirm(t)
			err := o.pass(ev)
			o.release(t)
			return err
		}
	case *eventtypes.TaskOOM:
		if t == nil {
			return nil // the cgroup of the past was removed
		}
		if !t.started && !t.exited {
			t.early = &ev
			return nil
		}
		if !t.hadOOM() {
			o.doubt(t, ev)
			return nil
		}
	case *eventtypes.TaskDelete:
		if t != nil && t.pid != 0 && !t.exited && !o.closed {
			o.hold(t, ev)
			return nil
		}
		return o.passDelete(ev)
	}
	return o.pass(ev)
}

// ends tells whether e is the exit of the task's init.
func (t *taskOrder) ends(e events.Event) bool {
	exit, ok := e.(*eventtypes.TaskExit)
	return ok && exit.ID == exit.ContainerID && exit.Pid == t.pid
}

func isCreate(e events.Event) bool {
	_, ok := e.(*eventtypes.TaskCreate)
	return ok
}

func (o *order) pass(ev event) error { return o.next.Publish(ev.ctx, ev.topic, ev.event) }

// passDelete ends the task of a container.
func (o *order) passDelete(ev event) error {
	if t := o.tasks[ev.id]; t != nil {
		t.oom = nil
	}
	delete(o.tasks, ev.id)
	err := o.pass(ev)
	o.expect(ev.id, -1)
	return err
}

// hadOOM tells whether the kernel confirms an OOM; where it need not, it does.
func (t *taskOrder) hadOOM() bool { return t.memory == "" || hadOOM(t.memory) }

// followStart passes on the TaskOOM that came before TaskStart.
func (o *order) followStart(t *taskOrder) {
	ev := t.early
	t.early = nil
	if ev == nil {
		return
	}
	if err := o.take(*ev); err != nil {
		log.G(ev.ctx).WithError(err).WithField("topic", ev.topic).Error("publish a delayed event")
	}
}

// doubt keeps a TaskOOM until the exit, or for a moment: the kernel notifies
// first, and kills and counts then.
func (o *order) doubt(t *taskOrder, ev event) {
	if t.oom != nil {
		return
	}
	doubtful := &ev
	t.oom = doubtful
	time.AfterFunc(oomWait, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if t.oom == doubtful {
			o.confirm(t)
		}
	})
}

// confirm passes a doubtful TaskOOM on if there was one, or drops it.
func (o *order) confirm(t *taskOrder) {
	ev := t.oom
	t.oom = nil
	if ev == nil || !t.hadOOM() {
		return
	}
	if err := o.pass(*ev); err != nil {
		log.G(ev.ctx).WithError(err).WithField("topic", ev.topic).Error("publish a confirmed event")
	}
}

// hold keeps the TaskDelete of t until its exit has passed.
func (o *order) hold(t *taskOrder, ev event) {
	t.held = []event{ev}
	t.timer = time.AfterFunc(o.wait, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(t.held) > 0 {
			log.G(ev.ctx).WithField("id", ev.id).Warn("deleted, but no exit event came")
			o.release(t)
		}
	})
}

// release passes on what t holds.
func (o *order) release(t *taskOrder) {
	if len(t.held) == 0 {
		return
	}
	held := t.held
	t.held = nil
	t.timer.Stop()
	for i, ev := range held {
		publish := o.take
		if i == 0 {
			publish = o.passDelete
		}
		if err := publish(ev); err != nil {
			log.G(ev.ctx).WithError(err).WithField("topic", ev.topic).Error("publish a held event")
		}
	}
}

// expectDelete announces the TaskDelete of a container.
func (o *order) expectDelete(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expect(id, 1)
}

// deleteFailed says that an announced TaskDelete does not come.
func (o *order) deleteFailed(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expect(id, -1)
}

// expect changes the number of TaskDelete events to come.
func (o *order) expect(id string, change int) {
	n := o.deleting[id] + change
	if n > 0 {
		o.deleting[id] = n
		return
	}
	delete(o.deleting, id)
	if len(o.deleting) == 0 {
		for _, w := range o.waiting {
			close(w)
		}
		o.waiting = nil
	}
}

// settled gives a channel that is closed when no TaskDelete is expected.
func (o *order) settled() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := make(chan struct{})
	if len(o.deleting) == 0 {
		close(w)
	} else {
		o.waiting = append(o.waiting, w)
	}
	return w
}

// Close is called by the service when it has published everything. Nothing is
// held back from then on.
func (o *order) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	for _, t := range o.tasks {
		o.release(t)
	}
	close(o.drained)
	return nil
}
