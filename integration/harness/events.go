package harness

import (
	"context"
	"fmt"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
)

// Event is one of containerd's task events.
type Event struct {
	Kind        string // create, start, exec-added, exec-started, exit, paused, resumed, oom, delete
	ContainerID string
	ExecID      string // of an exec's events; empty for the container's own
	Pid         uint32
	ExitStatus  uint32 // of exit and delete
	Published   time.Time
	Received    time.Time
}

// String is the event without what differs between runs.
func (e Event) String() string {
	s := e.Kind
	if e.ExecID != "" {
		s += " " + e.ExecID
	}
	if e.Kind == "exit" || e.Kind == "delete" {
		s += fmt.Sprintf(" %d", e.ExitStatus)
	}
	return s
}

// Events collects the task events of a world, from when Watch is called on.
type Events struct {
	mu     sync.Mutex
	events map[string][]Event // by container, in order of arrival
	more   chan struct{}      // closed and replaced at each event
	err    error              // why the subscription ended
}

// Watch subscribes to the world's task events until ctx is done.
func (w *World) Watch(ctx context.Context) *Events {
	e := &Events{events: map[string][]Event{}, more: make(chan struct{})}
	envelopes, errs := w.Client.Subscribe(ctx, `namespace==`+w.Namespace+`,topic~="^/tasks/"`)
	go func() {
		for {
			select {
			case env := <-envelopes:
				v, err := typeurl.UnmarshalAny(env.Event)
				if err != nil {
					e.end(fmt.Errorf("event %s: %w", env.Topic, err))
					return
				}
				if event, ok := decode(v); ok {
					event.Published, event.Received = env.Timestamp, time.Now()
					e.add(event)
				}
			case err := <-errs:
				e.end(err)
				return
			}
		}
	}()
	return e
}

func decode(v any) (Event, bool) {
	switch v := v.(type) {
	case *apievents.TaskCreate:
		return Event{Kind: "create", ContainerID: v.ContainerID, Pid: v.Pid}, true
	case *apievents.TaskStart:
		return Event{Kind: "start", ContainerID: v.ContainerID, Pid: v.Pid}, true
	case *apievents.TaskExecAdded:
		return Event{Kind: "exec-added", ContainerID: v.ContainerID, ExecID: v.ExecID}, true
	case *apievents.TaskExecStarted:
		return Event{Kind: "exec-started", ContainerID: v.ContainerID, ExecID: v.ExecID, Pid: v.Pid}, true
	case *apievents.TaskExit:
		return Event{Kind: "exit", ContainerID: v.ContainerID, ExecID: execID(v.ID, v.ContainerID), Pid: v.Pid, ExitStatus: v.ExitStatus}, true
	case *apievents.TaskDelete:
		return Event{Kind: "delete", ContainerID: v.ContainerID, ExecID: execID(v.ID, v.ContainerID), Pid: v.Pid, ExitStatus: v.ExitStatus}, true
	case *apievents.TaskPaused:
		return Event{Kind: "paused", ContainerID: v.ContainerID}, true
	case *apievents.TaskResumed:
		return Event{Kind: "resumed", ContainerID: v.ContainerID}, true
	case *apievents.TaskOOM:
		return Event{Kind: "oom", ContainerID: v.ContainerID}, true
	}
	return Event{}, false
}

func execID(id, containerID string) string {
	if id == containerID {
		return ""
	}
	return id
}

func (e *Events) add(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events[event.ContainerID] = append(e.events[event.ContainerID], event)
	close(e.more)
	e.more = make(chan struct{})
}

func (e *Events) end(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err = err; err == nil {
		e.err = context.Canceled
	}
	close(e.more)
	e.more = make(chan struct{})
}

// Of returns the events of a container that have arrived so far.
func (e *Events) Of(containerID string) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.events[containerID]...)
}

// Await waits until the container's events include one that prints as event,
// and returns all that arrived until then.
func (e *Events) Await(ctx context.Context, containerID, event string) ([]Event, error) {
	for {
		e.mu.Lock()
		all, more, err := append([]Event(nil), e.events[containerID]...), e.more, e.err
		e.mu.Unlock()
		for _, got := range all {
			if got.String() == event || got.Kind == event {
				return all, nil
			}
		}
		if err != nil {
			return all, fmt.Errorf("the event stream ended: %w", err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return all, fmt.Errorf("no event %q: %w", event, ctx.Err())
		}
	}
}

// Strings prints events, without the deletion of execs, which a shim may
// announce or not.
func Strings(events []Event) []string {
	s := []string{}
	for _, e := range events {
		if e.Kind != "delete" || e.ExecID == "" {
			s = append(s, e.String())
		}
	}
	return s
}
