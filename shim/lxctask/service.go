// Package lxctask is containerd's task service for LXC containers: each call
// finds its container, calls package lxc, publishes the event and maps the
// error. It serves the containers that were routed to LXC; package task is in
// front of it.
package lxctask

import (
	"context"
	"fmt"
	"os"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/shim/rpcerr"
)

// Publisher takes events; what is published first is delivered first.
type Publisher = events.Publisher

// Prepare turns a Create request into what package lxc needs: it knows the
// configuration and the places on this machine.
type Prepare func(ctx context.Context, r *taskAPI.CreateTaskRequest) (lxc.Request, error)

// Service implements the task API. It lives as long as the shim.
type Service struct {
	publisher Publisher
	prepare   Prepare
	oom       *cgroup.Watcher
	openIO    sync.WaitGroup // of all processes, also of deleted ones

	mu    sync.Mutex // guards tasks
	tasks map[string]*task
}

var (
	_     taskAPI.TTRPCTaskService = (*Service)(nil)
	empty                          = &ptypes.Empty{}
)

// New returns a service without tasks. ctx carries the namespace, and is used
// for what happens by itself, as exits.
func New(ctx context.Context, publisher Publisher, prepare Prepare) (*Service, error) {
	s := &Service{publisher: publisher, prepare: prepare, tasks: map[string]*task{}}
	oom, err := cgroup.NewOOMWatcher(func(id string) { s.reportOOM(ctx, id) })
	if err != nil {
		return nil, err
	}
	s.oom = oom
	return s, nil
}

func (s *Service) publish(ctx context.Context, event any) {
	if err := s.publisher.Publish(ctx, runtime.GetTopic(event), event); err != nil {
		log.G(ctx).WithError(err).Error("publish event")
	}
}

func (s *Service) reportOOM(ctx context.Context, id string) {
	s.mu.Lock()
	t := s.tasks[id]
	s.mu.Unlock()
	if t != nil {
		t.oom.report(func() { s.publish(ctx, &eventstypes.TaskOOM{ContainerID: id}) })
	}
}

// AwaitIO waits until the stdio of every process that was deleted is done: a
// logger may take some seconds to end.
func (s *Service) AwaitIO(ctx context.Context) error {
	done := make(chan struct{})
	go func() { defer close(done); s.openIO.Wait() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a logger still runs: %w", ctx.Err())
	}
}

// find returns the task and one of its processes, in the words of the runc
// shim if there is none.
func (s *Service) find(id, execID string) (*task, *process, error) {
	s.mu.Lock()
	t := s.tasks[id]
	s.mu.Unlock()
	if t == nil {
		return nil, nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "container not created")
	}
	p, err := t.process(execID)
	if err != nil {
		return nil, nil, rpcerr.ToGRPC(err)
	}
	return t, p, nil
}

// Create creates a container whose process waits for Start.
func (s *Service) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "a checkpoint can not be restored with LXC: %s", insteadOfCheckpoints)
	}
	request, err := s.prepare(ctx, r)
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	request.OpenIO = &s.openIO
	container, err := lxc.Create(ctx, request)
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	t := newTask(container)
	s.mu.Lock()
	s.tasks[r.ID] = t
	s.mu.Unlock()
	s.publish(ctx, &eventstypes.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &eventstypes.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         uint32(container.Init.Pid()),
	})
	if err := s.oom.Add(r.ID, container.Group()); err != nil {
		log.G(ctx).WithError(err).Warn("watch for OOM kills")
	}
	go s.reportInit(context.WithoutCancel(ctx), t)
	return &taskAPI.CreateTaskResponse{Pid: uint32(container.Init.Pid())}, nil
}

// Start starts the container's process, or an exec.
func (s *Service) Start(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	t, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = s.startInit(ctx, t)
	} else {
		err = s.startExec(ctx, t, p)
	}
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return &taskAPI.StartResponse{Pid: uint32(p.Pid())}, nil
}

// Delete removes a container that has ended, or an exec.
func (s *Service) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	t, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = s.deleteInit(ctx, t)
	} else {
		err = t.deleteExec(ctx, p)
	}
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return &taskAPI.DeleteResponse{
		Pid:        uint32(p.Pid()),
		ExitStatus: uint32(p.Exit().Status),
		ExitedAt:   protobuf.ToTimestamp(p.Exit().At),
	}, nil
}

// Exec adds a process, to be started by Start.
func (s *Service) Exec(ctx context.Context, r *taskAPI.ExecProcessRequest) (*ptypes.Empty, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	spec, warnings, err := oci.ParseProcess(r.Spec.GetValue())
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	for _, w := range warnings {
		log.G(ctx).WithField("id", r.ID).WithField("exec", r.ExecID).Warn(w)
	}
	stdio := lxc.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	if err := t.addExec(r.ExecID, spec, stdio); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	s.publish(ctx, &eventstypes.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return empty, nil
}

// State tells about a process.
func (s *Service) State(_ context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	t, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	id := r.ID
	if r.ExecID != "" {
		id = r.ExecID
	}
	exit := p.Exit()
	return &taskAPI.StateResponse{
		ID: id, ExecID: r.ExecID,
		Bundle:     t.Bundle(),
		Pid:        uint32(p.Pid()),
		Status:     t.status(p),
		Stdin:      p.Stdio.Stdin,
		Stdout:     p.Stdio.Stdout,
		Stderr:     p.Stdio.Stderr,
		Terminal:   p.Stdio.Terminal,
		ExitStatus: uint32(exit.Status),
		ExitedAt:   protobuf.ToTimestamp(exit.At),
	}, nil
}

// Pause freezes the container.
func (s *Service) Pause(ctx context.Context, r *taskAPI.PauseRequest) (*ptypes.Empty, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := t.Pause(ctx); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	s.publish(ctx, &eventstypes.TaskPaused{ContainerID: r.ID})
	return empty, nil
}

// Resume lets a paused container run on.
func (s *Service) Resume(ctx context.Context, r *taskAPI.ResumeRequest) (*ptypes.Empty, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := t.Resume(ctx); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	s.publish(ctx, &eventstypes.TaskResumed{ContainerID: r.ID})
	return empty, nil
}

// Kill sends a signal to a process, or to all of the container.
func (s *Service) Kill(ctx context.Context, r *taskAPI.KillRequest) (*ptypes.Empty, error) {
	t, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := t.Kill(ctx, p.Process, unix.Signal(r.Signal), r.All); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return empty, nil
}

// Pids lists the host's pids of the container's processes.
func (s *Service) Pids(_ context.Context, r *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := t.Pids()
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	execs := t.execIDs()
	resp := &taskAPI.PidsResponse{}
	for _, pid := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if id, ok := execs[pid]; ok {
			if info.Info, err = typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id}); err != nil {
				return nil, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

// ResizePty sets the size of a process's terminal.
func (s *Service) ResizePty(_ context.Context, r *taskAPI.ResizePtyRequest) (*ptypes.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.Resize(uint16(r.Width), uint16(r.Height)); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return empty, nil
}

// CloseIO closes the shim's end of a process's input.
func (s *Service) CloseIO(_ context.Context, r *taskAPI.CloseIORequest) (*ptypes.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.CloseStdin(); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return empty, nil
}

// insteadOfCheckpoints says what the user can do.
const insteadOfCheckpoints = "route the container to crun (routing in config.toml, annotation io.nexcage.backend), which checkpoints with criu"

// Checkpoint is not possible with LXC here.
func (s *Service) Checkpoint(_ context.Context, r *taskAPI.CheckpointTaskRequest) (*ptypes.Empty, error) {
	if _, _, err := s.find(r.ID, ""); err != nil {
		return nil, err
	}
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "checkpoint of an LXC container: %s", insteadOfCheckpoints)
}

// Update changes the container's resources.
func (s *Service) Update(ctx context.Context, r *taskAPI.UpdateTaskRequest) (*ptypes.Empty, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	resources, err := oci.ParseResources(r.Resources.GetValue())
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	if err := t.Update(ctx, resources); err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	return empty, nil
}

// Wait waits for the end of a process.
func (s *Service) Wait(ctx context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.reported:
	case <-ctx.Done():
		return nil, rpcerr.ToGRPC(ctx.Err())
	}
	return &taskAPI.WaitResponse{
		ExitStatus: uint32(p.Exit().Status),
		ExitedAt:   protobuf.ToTimestamp(p.Exit().At),
	}, nil
}

// Connect tells the pids of the shim and of the task.
func (s *Service) Connect(_ context.Context, r *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	resp := &taskAPI.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if _, p, err := s.find(r.ID, ""); err == nil {
		resp.TaskPid = uint32(p.Pid())
	}
	return resp, nil
}

// Stats returns the figures of the container's control group.
func (s *Service) Stats(_ context.Context, r *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	t, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	stats, err := t.Stats()
	if err != nil {
		return nil, rpcerr.ToGRPC(err)
	}
	data, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, err
	}
	return &taskAPI.StatsResponse{Stats: data}, nil
}

// Shutdown has nothing to do: the end of the process is decided in front.
func (s *Service) Shutdown(context.Context, *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	return empty, nil
}
