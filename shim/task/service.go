// Package task is the task service of the shim: it decides at Create which
// backend a container goes to, remembers it, and hands every further call to
// that backend. It also keeps the record on disk that the delete verb works
// from, and ends the shim after its last container.
package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/shim/crun"
	"github.com/cageforge/containerd-shim-nexcage/shim/lxctask"
)

// Publisher takes events; what is published first is delivered first.
type Publisher = lxctask.Publisher

// Options of the service.
type Options struct {
	Namespace string
	Publisher Publisher
	// Shutdown ends the shim; called when the last container is gone.
	Shutdown func()
}

// backend serves the containers that were routed to it.
type backend = taskAPI.TTRPCTaskService

// Service implements the task API.
type Service struct {
	options Options
	ctx     context.Context // of the shim
	lxc     *lxctask.Service

	mu     sync.Mutex // guards what follows
	crun   *crun.Service
	joiner *helper.Joiner
	tasks  map[string]*entry
	asked  bool // for the shutdown
}

var (
	_     taskAPI.TTRPCTaskService = (*Service)(nil)
	empty                          = &ptypes.Empty{}
)

// New returns a service without containers. ctx carries the namespace.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{options: o, ctx: ctx, tasks: map[string]*entry{}}
	var err error
	s.lxc, err = lxctask.New(ctx, recorder{s}, s.lxcRequest)
	return s, err
}

// Close waits until what the backends still have to say has been published.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	crun, joiner := s.crun, s.joiner
	s.mu.Unlock() // the last events look their containers up
	var errs []error
	if crun != nil {
		errs = append(errs, crun.Close(ctx))
	}
	if joiner != nil {
		errs = append(errs, joiner.Close())
	}
	return errors.Join(errs...)
}

// crunService returns the crun backend, which is made when the first container
// needs it: a pod of LXC containers does without.
func (s *Service) crunService(stateDir string) (*crun.Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crun != nil {
		return s.crun, nil
	}
	var err error
	s.crun, err = crun.New(s.ctx, crun.Options{Publisher: recorder{s}, Cache: filepath.Join(stateDir, ".engines")})
	return s.crun, err
}

func (s *Service) entry(id string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[id]
}

// reserve takes the id for a container that is being created.
func (s *Service) reserve(id string, e *entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.tasks[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.tasks[id] = e
	return nil
}

func (s *Service) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

// Create routes the container and creates it.
func (s *Service) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	e, err := s.route(ctx, r)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := s.reserve(r.ID, e); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := e.make(r.Bundle); err != nil {
		s.giveUp(r.ID)
		return nil, errgrpc.ToGRPC(err)
	}
	resp, err := e.backend.Create(ctx, r)
	if err != nil {
		// A status that is joined to nothing would still change its text.
		if rerr := e.remove(r.Bundle); rerr != nil {
			err = errgrpc.ToGRPC(errors.Join(errgrpc.ToNative(err), rerr))
		}
		s.giveUp(r.ID)
		return nil, err
	}
	return resp, nil
}

// Delete deletes a container, or an exec.
func (s *Service) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	e := s.entry(r.ID)
	if e == nil {
		return nil, errNotCreated()
	}
	resp, err := e.backend.Delete(ctx, r)
	if err != nil || r.ExecID != "" {
		return resp, err
	}
	err = e.deleted(resp)
	s.forget(r.ID)
	return resp, errgrpc.ToGRPC(err)
}

// Connect tells the pids of the shim and of the container.
func (s *Service) Connect(ctx context.Context, r *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	if e := s.entry(r.ID); e != nil {
		return e.backend.Connect(ctx, r)
	}
	return &taskAPI.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

// giveUp forgets a container whose creation failed. If containerd has asked for
// the shutdown meanwhile, as it does when its client gave up, it will not ask
// again.
func (s *Service) giveUp(id string) {
	s.forget(id)
	s.mu.Lock()
	over := s.asked && len(s.tasks) == 0
	s.mu.Unlock()
	if over {
		s.options.Shutdown()
	}
}

// Shutdown ends the shim when no container is left. containerd calls it after
// every Delete.
func (s *Service) Shutdown(context.Context, *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	s.mu.Lock()
	left := len(s.tasks)
	s.asked = true
	s.mu.Unlock()
	if left == 0 {
		s.options.Shutdown()
	}
	return empty, nil
}

func errNotCreated() error {
	return errgrpc.ToGRPCf(errdefs.ErrNotFound, "container not created")
}
