// Package crun runs containers with crun, or another engine with runc's
// command line: the backend for what shall not become an LXC container.
//
// The task service is containerd's own, the one of its runc shim. This package
// puts around it what it leaves to the caller: options of any form, bundles
// that an old crun refuses, hooks that crun forgets, and above all events that
// arrive, and in their order. It is for the shim's task service, which decides
// which containers come here, and shares the process with other backends.
package crun

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/runtime/task/v3"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Publisher takes events. Publish must not block: it is called with locks
// held, in the order in which containerd shall see the events.
type Publisher interface {
	Publish(ctx context.Context, topic string, event events.Event) error
}

// Options configure the backend.
type Options struct {
	Publisher Publisher

	// Cache is a directory for what engines say of themselves, so that not
	// every shim asks; "" for none.
	Cache string

	// The rest is for containers whose runtime options do not say it
	// themselves.

	// Binary is the engine: a path, or a name looked up in $PATH; "" is crun.
	Binary string
	// Root is the directory of the engine's state, with a directory for
	// each namespace; "" is that of containerd's runc shim,
	// /run/containerd/runc.
	Root string
	// SystemdCgroup lets systemd make the cgroups. It is set anyway for a
	// container whose cgroupsPath has systemd's form.
	SystemdCgroup bool
}

// Service is a task service (v3) for containers of the engine. Its errors are
// those of gRPC.
type Service struct {
	task.TTRPCTaskService // containerd's, for all calls not overridden here

	options    Options
	engines    engines
	cgroupRoot string
	order      *order
	shutdown   *innerShutdown
	starts     starts
}

// New makes the service. ctx carries the namespace, and ends with the process.
// The process must reap its children (package lxc/child) and be a subreaper.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Binary == "" {
		o.Binary = "crun"
	}
	s := &Service{
		options:    o,
		engines:    engines{cache: o.Cache},
		cgroupRoot: hostCgroups,
		order:      newOrder(o.Publisher, exitWait),
		shutdown:   newInnerShutdown(),
	}
	inner, err := runctask.NewTaskService(ctx, s.order, s.shutdown)
	if err != nil {
		return nil, fmt.Errorf("start the runc task service: %w", err)
	}
	s.TTRPCTaskService = inner
	return s, nil
}

// Create creates a container. When the engine fails after it has begun, the
// poststop hooks have run, and the container's cgroup is gone.
func (s *Service) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	b, err := loadBundle(r.Bundle)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	opts, err := s.options.forTask(r.Options, b)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	e, err := s.engines.get(ctx, opts.BinaryName)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	opts.BinaryName = e.path
	if err := e.prepare(b, s.cgroupRoot); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	inner := proto.CloneOf(r)
	if inner.Options, err = marshalOptions(opts); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	inner.Stderr = stderrOf(r.Terminal, r.Stdout, r.Stderr)
	cgroup := newCgroup(s.cgroupRoot, b.config.Linux.CgroupsPath)
	resp, err := s.TTRPCTaskService.Create(ctx, inner)
	if err != nil {
		removeCgroup(ctx, cgroup)
		if e.forgetsPoststop() {
			b.poststop(ctx, r.ID, opts.Root)
		}
	}
	return resp, err
}

// Exec adds a process to a container.
func (s *Service) Exec(ctx context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	inner := proto.CloneOf(r)
	inner.Stderr = stderrOf(r.Terminal, r.Stdout, r.Stderr)
	return s.TTRPCTaskService.Exec(ctx, inner)
}

// Delete deletes a container that is not running, or an exec.
func (s *Service) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	if r.ExecID == "" {
		s.order.expectDelete(r.ID)
	}
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	switch {
	case err == nil:
		s.starts.forget(processID{container: r.ID, exec: r.ExecID})
	case r.ExecID == "":
		s.order.deleteFailed(r.ID)
	}
	return resp, err
}

// Close ends the service when the process ends: it waits until every event of
// a deleted container is with the Publisher. What runs goes on running.
// The end of ctx ends the waiting, and then is the error. A second call does
// nothing but wait.
func (s *Service) Close(ctx context.Context) error {
	select {
	case <-s.order.settled():
	case <-ctx.Done():
	}
	s.shutdown.finish(ctx)
	select {
	case <-s.order.drained:
		return s.shutdown.callbackError()
	case <-ctx.Done():
		return fmt.Errorf("wait for the last events: %w", ctx.Err())
	}
}
