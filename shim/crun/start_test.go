package crun

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// startable stands for containerd's service: it notes the starts that reach
// it.
type startable struct {
	task.TTRPCTaskService
	begun chan struct{} // gets a value for each start, if it is not nil
	block chan struct{} // a start waits until it is closed, likewise

	mu     sync.Mutex
	states map[processID]tasktypes.Status
	starts []processID
	fails  int // so many starts fail
}

func (f *startable) set(p processID, s tasktypes.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[p] = s
}

func (f *startable) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.states[processID{r.ID, r.ExecID}]
	if !ok {
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "process does not exist %s", r.ExecID)
	}
	return &task.StateResponse{Status: s}, nil
}

func (f *startable) Start(_ context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	if f.begun != nil {
		f.begun <- struct{}{}
	}
	if f.block != nil {
		<-f.block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := processID{r.ID, r.ExecID}
	f.starts = append(f.starts, p)
	switch _, ok := f.states[p]; {
	case !ok:
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "process does not exist %s", r.ExecID)
	case f.fails > 0:
		f.fails--
		return nil, errors.New("start failed")
	case f.states[processID{container: r.ID}] == tasktypes.Status_STOPPED:
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "container %s init process is not running", r.ID)
	}
	f.states[p] = tasktypes.Status_RUNNING
	return &task.StartResponse{Pid: 7}, nil
}

func (f *startable) Delete(_ context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := processID{r.ID, r.ExecID}
	if f.states[p] == tasktypes.Status_RUNNING {
		return nil, errors.New("cannot delete a running process")
	}
	delete(f.states, p)
	return &task.DeleteResponse{}, nil
}

var (
	theInit = processID{"c", ""}
	theExec = processID{"c", "e"}
)

// newStartable makes a service with a created container and a created exec.
func newStartable(t *testing.T) (*Service, *startable) {
	f := &startable{states: map[processID]tasktypes.Status{theInit: tasktypes.Status_CREATED, theExec: tasktypes.Status_CREATED}}
	return &Service{TTRPCTaskService: f, order: testOrder(t, newRecorder(), exitWait)}, f
}

func startOf(s *Service, p processID) error {
	_, err := s.Start(context.Background(), &task.StartRequest{ID: p.container, ExecID: p.exec})
	return err
}

func TestASecondStartDoesNotReachTheService(t *testing.T) {
	for name, tc := range map[string]struct {
		p     processID
		state tasktypes.Status
		want  string
	}{
		"of a running init":             {theInit, tasktypes.Status_RUNNING, "cannot start a running process"},
		"of a paused init":              {theInit, tasktypes.Status_PAUSED, "cannot start a paused process"},
		"of an init that is pausing":    {theInit, tasktypes.Status_PAUSING, "cannot start a running process"},
		"of a stopped init":             {theInit, tasktypes.Status_STOPPED, "cannot start a stopped process"},
		"of a running exec":             {theExec, tasktypes.Status_RUNNING, "cannot start a running process"},
		"of an exec while it is paused": {theExec, tasktypes.Status_PAUSED, "cannot start a running process"},
		"of a stopped exec":             {theExec, tasktypes.Status_STOPPED, "cannot start a stopped process"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newStartable(t)
			require.NoError(t, startOf(s, tc.p))
			f.set(tc.p, tc.state)
			for range 2 {
				err := startOf(s, tc.p)
				assert.Equal(t, codes.Unknown, status.Code(err))
				assert.ErrorContains(t, err, tc.want)
			}
			assert.Equal(t, []processID{tc.p}, f.starts)
		})
	}
}

func TestTheStartOfAnInitThatWasKilledDoesNotReachTheService(t *testing.T) {
	s, f := newStartable(t)
	f.set(theInit, tasktypes.Status_STOPPED)
	assert.ErrorContains(t, startOf(s, theInit), "cannot start a stopped process")
	assert.Empty(t, f.starts)
	assert.Empty(t, s.starts.known)
}

func TestTheServiceItselfRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		p       processID
		prepare func(*testing.T, *Service, *startable)
		is      func(error) bool
	}{
		"an unknown exec":      {processID{"c", "x"}, nil, errdefs.IsNotFound},
		"an unknown container": {processID{"x", ""}, nil, errdefs.IsNotFound},
		"an exec after the end of the init": {theExec, func(_ *testing.T, _ *Service, f *startable) {
			f.set(theInit, tasktypes.Status_STOPPED)
		}, errdefs.IsFailedPrecondition},
		"a started exec after the end of the init": {theExec, func(t *testing.T, s *Service, f *startable) {
			require.NoError(t, startOf(s, theExec))
			f.set(theInit, tasktypes.Status_STOPPED)
		}, errdefs.IsFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newStartable(t)
			if tc.prepare != nil {
				tc.prepare(t, s, f)
			}
			err := startOf(s, tc.p)
			assert.True(t, tc.is(errgrpc.ToNative(err)), "%v", err)
		})
	}
}

func TestAStartThatFailedMayBeTriedAgain(t *testing.T) {
	for _, p := range []processID{theInit, theExec} {
		s, f := newStartable(t)
		f.fails = 1
		assert.ErrorContains(t, startOf(s, p), "start failed")
		assert.Empty(t, s.starts.known)
		require.NoError(t, startOf(s, p))
		assert.Error(t, startOf(s, p))
		assert.Len(t, f.starts, 2)
	}
}

func TestADeletedProcessIsForgotten(t *testing.T) {
	for name, tc := range map[string]struct{ deleted, again processID }{
		"an exec":                {theExec, theExec},
		"an init":                {theInit, theInit},
		"an init with its execs": {theInit, theExec},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newStartable(t)
			other := processID{"d", "e"}
			f.set(other, tasktypes.Status_CREATED)
			for _, p := range []processID{theInit, theExec, other} {
				require.NoError(t, startOf(s, p))
			}
			f.set(tc.deleted, tasktypes.Status_RUNNING)
			_, err := s.Delete(t.Context(), &task.DeleteRequest{ID: tc.deleted.container, ExecID: tc.deleted.exec})
			require.Error(t, err)
			assert.Len(t, s.starts.known, 3, "a delete that fails forgets nothing")
			f.set(tc.deleted, tasktypes.Status_STOPPED)
			_, err = s.Delete(t.Context(), &task.DeleteRequest{ID: tc.deleted.container, ExecID: tc.deleted.exec})
			require.NoError(t, err)

			f.set(theInit, tasktypes.Status_CREATED)
			f.set(tc.again, tasktypes.Status_CREATED)
			require.NoError(t, startOf(s, tc.again))
			assert.ErrorContains(t, startOf(s, other), "running")
		})
	}
}

func TestOfManyStartsAtATimeOneReachesTheService(t *testing.T) {
	const many = 8
	for _, fails := range []int{0, 3} {
		t.Run(fmt.Sprint(fails, " fail"), func(t *testing.T) {
			s, f := newStartable(t)
			f.fails = fails
			f.begun, f.block = make(chan struct{}, many), make(chan struct{})
			results := make(chan error, many)
			for range many {
				go func() { results <- startOf(s, theExec) }()
			}
			<-f.begun
			close(f.block)
			var ok int
			for range many {
				if <-results == nil {
					ok++
				}
			}
			assert.Equal(t, 1, ok)
			assert.Len(t, f.starts, 1+fails)
			assert.Len(t, s.starts.known, 1)
			assert.Zero(t, s.starts.known[theExec].users)
		})
	}
}
