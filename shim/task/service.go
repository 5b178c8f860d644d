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
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/shim/crun"
	"github.com/cageforge/containerd-shim-nexcage/shim/lxctask"
	"github.com/cageforge/containerd-shim-nexcage/shim/rpcerr"
)

// Publisher takes events; what is published first is delivered first.
type Publisher = lxctask.Publisher

// Options of the service.
type Options struct {
	Namespace string
	Address   string // of containerd's gRPC API; "" if it is not known
	Publisher Publisher
	// Shutdown ends the shim, and says whether it does so now; called when
	// there is no container, and none expected. asked: by a client, on an
	// open connection. It must not call the service.
	Shutdown func(asked bool) (over bool)
}

// backend serves the containers that were routed to it.
type backend = taskAPI.TTRPCTaskService

// Service implements the task API.
type Service struct {
	options Options
	ctx     context.Context // of the shim
	lxc     *lxctask.Service

	mu       sync.Mutex // guards what follows
	crun     *crun.Service
	joiner   *helper.Joiner
	tasks    map[string]*entry
	expected map[string]*time.Timer // containers that are announced
	over     bool                   // the shim ends
}

var (
	_     taskAPI.TTRPCTaskService = (*Service)(nil)
	empty                          = &ptypes.Empty{}
)

// New returns a service without containers. ctx carries the namespace.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{options: o, ctx: ctx, tasks: map[string]*entry{}, expected: map[string]*time.Timer{}}
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

// AwaitIO waits until the output of every container that was deleted is where it
// belongs, and the loggers have ended.
func (s *Service) AwaitIO(ctx context.Context) error { return s.lxc.AwaitIO(ctx) }

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
	if s.over {
		return errOver()
	}
	if _, ok := s.tasks[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.tasks[id] = e
	s.arrived(id)
	return nil
}

// Create routes the container and creates it.
func (s *Service) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	e, err := s.route(ctx, r)
	if err != nil {
		return nil, rpcerr.OfCreate(rpcerr.ToGRPC(err))
	}
	resp, err := s.create(ctx, e, r)
	return resp, rpcerr.OfCreate(err)
}

func (s *Service) create(ctx context.Context, e *entry, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	if err := s.reserve(r.ID, e); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	if err := s.make(ctx, e, r.Bundle); err != nil {
		s.giveUp(r.ID, e)
		return nil, rpcerr.ToGRPC(err)
	}
	resp, err := e.backend.Create(ctx, r)
	if err != nil {
		// A status that is joined to nothing would still change its text.
		if rerr := e.remove(r.Bundle); rerr != nil {
			err = rpcerr.ToGRPC(errors.Join(errgrpc.ToNative(err), rerr))
		}
		s.giveUp(r.ID, e)
		return nil, err
	}
	if s.settle(e) {
		return resp, nil
	}
	_, err = s.delete(context.WithoutCancel(ctx), e, &taskAPI.DeleteRequest{ID: r.ID})
	return nil, errors.Join(errgrpc.ToGRPCf(errdefs.ErrAborted, "container %s was deleted while it was created", r.ID), err)
}

// settle ends the creation of a container; false if it was deleted meanwhile.
func (s *Service) settle(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(e.created)
	return !e.abandoned
}

// Delete deletes a container, or an exec.
func (s *Service) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	e := s.entry(r.ID)
	if e == nil {
		return nil, errNotCreated()
	}
	if r.ExecID != "" {
		return e.backend.Delete(ctx, r)
	}
	if err := s.awaitCreation(ctx, e); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	if s.entry(r.ID) != e {
		return nil, errNotCreated()
	}
	return s.delete(ctx, e, r)
}

// awaitCreation waits until Create has ended: a client that has given up
// waiting for it asks for Delete at once. If ctx ends first, Create will delete
// the container.
func (s *Service) awaitCreation(ctx context.Context, e *entry) error {
	select {
	case <-e.created:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-e.created: // just now
		return nil
	default:
		e.abandoned = true
		return fmt.Errorf("container %s is still being created: %w", e.state.ID, ctx.Err())
	}
}

func (s *Service) delete(ctx context.Context, e *entry, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	resp, err := e.backend.Delete(ctx, r)
	if err != nil {
		return nil, err
	}
	err = e.deleted(resp)
	s.forget(r.ID, e)
	return resp, rpcerr.ToGRPC(err)
}

// Connect tells the pids of the shim and of the container.
func (s *Service) Connect(ctx context.Context, r *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	if e := s.entry(r.ID); e != nil {
		return e.backend.Connect(ctx, r)
	}
	return &taskAPI.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

// giveUp forgets a container whose creation failed.
func (s *Service) giveUp(id string, e *entry) {
	s.forget(id, e) // first, so that a Delete that waits finds nothing
	s.settle(e)
}

// forget forgets a container. If its client has asked for the shutdown while it
// was created, it will not ask again.
func (s *Service) forget(id string, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
	if e.last {
		s.endIfIdle(true)
	}
}

// Shutdown ends the shim when no container is left. containerd calls it after
// every Delete, and for a Create that it gave up.
func (s *Service) Shutdown(_ context.Context, r *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.tasks[r.ID]; e != nil {
		e.last = true
	}
	s.arrived(r.ID)
	s.endIfIdle(true)
	return empty, nil
}

func errNotCreated() error {
	return errgrpc.ToGRPCf(errdefs.ErrNotFound, "container not created")
}
