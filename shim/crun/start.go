package crun

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// processID names a process: the init has no exec id.
type processID struct{ container, exec string }

// starts knows which processes were started. Containerd's service counts a
// process again when it refuses to start it a second time: then its exit comes
// twice, or the service panics at the end of the container.
type starts struct {
	mu    sync.Mutex // guards what follows
	known map[processID]*start
}

// start is a process that was started, or is about to be.
type start struct {
	mu   sync.Mutex // held while the service starts the process
	done bool       // guarded by mu
	// users are who waits for mu or has it; guarded by starts.mu.
	users int
}

// enter begins a start, when no other of the process is under way.
func (s *starts) enter(p processID) *start {
	s.mu.Lock()
	if s.known == nil {
		s.known = map[processID]*start{}
	}
	st := s.known[p]
	if st == nil {
		st = &start{}
		s.known[p] = st
	}
	st.users++
	s.mu.Unlock()
	st.mu.Lock()
	return st
}

// leave ends it. A start that failed leaves nothing behind.
func (s *starts) leave(p processID, st *start) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.users--
	if st.users == 0 && !st.done && s.known[p] == st {
		delete(s.known, p)
	}
	st.mu.Unlock()
}

// forget is told of what was deleted: with the init, the execs too.
func (s *starts) forget(p processID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.exec != "" {
		delete(s.known, p)
		return
	}
	for q := range s.known {
		if q.container == p.container {
			delete(s.known, q)
		}
	}
}

// Start starts the container, or an exec.
func (s *Service) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	p := processID{container: r.ID, exec: r.ExecID}
	st := s.starts.enter(p)
	defer s.starts.leave(p, st)
	if err := s.refusal(ctx, p, st.done); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	st.done = st.done || err == nil
	return resp, err
}

// refusal is what the service would answer to the start of a process that was
// started, or has ended before; nil if the service can be asked. It refuses by
// itself, and counts nothing, if it does not know the process, and to start an
// exec after the end of the init.
func (s *Service) refusal(ctx context.Context, p processID, started bool) error {
	status, err := s.status(ctx, p)
	if err != nil || !started && status != tasktypes.Status_STOPPED {
		return nil
	}
	if p.exec != "" {
		if init, err := s.status(ctx, processID{container: p.container}); err == nil && init == tasktypes.Status_STOPPED {
			return nil
		}
	}
	name := "running" // an exec says paused, too, when its container is
	switch {
	case status == tasktypes.Status_STOPPED:
		name = "stopped"
	case status == tasktypes.Status_PAUSED && p.exec == "":
		name = "paused"
	}
	return fmt.Errorf("cannot start a %s process", name)
}

func (s *Service) status(ctx context.Context, p processID) (tasktypes.Status, error) {
	resp, err := s.TTRPCTaskService.State(ctx, &task.StateRequest{ID: p.container, ExecID: p.exec})
	return resp.GetStatus(), err
}
