package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	_ "github.com/containerd/cgroups/v3/cgroup1/stats" // registers the types of Metrics
	_ "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cageforge/containerd-shim-nexcage/integration/image"
)

// Container is a container of a world, driven through containerd's task
// service without the checks that its client package makes before it asks.
type Container struct {
	World   *World
	Runtime Runtime
	ID      string
	Pid     uint32 // of the task, once created

	tasks tasks.TasksClient
	io    map[string]*Stdio // of the task (""), and of execs
}

// NewContainer makes a container (metadata and snapshot, no task) of an image.
func (w *World) NewContainer(ctx context.Context, rt Runtime, id, imageName string, opts ...oci.SpecOpts) (*Container, error) {
	return w.newContainer(ctx, rt, id, imageName, func(i containerd.Image) containerd.NewContainerOpts {
		return containerd.WithNewSnapshot(id, i)
	}, opts...)
}

// NewRemapped is NewContainer with a snapshot whose files belong to the users
// of a user namespace, as `ctr run --uidmap … --gidmap …` makes it.
func (w *World) NewRemapped(ctx context.Context, rt Runtime, id, imageName string, ids []specs.LinuxIDMapping, opts ...oci.SpecOpts) (*Container, error) {
	return w.newContainer(ctx, rt, id, imageName, func(i containerd.Image) containerd.NewContainerOpts {
		return containerd.WithUserNSRemappedSnapshot(id, i, ids, ids)
	}, append([]oci.SpecOpts{oci.WithUserNamespace(ids, ids)}, opts...)...)
}

func (w *World) newContainer(ctx context.Context, rt Runtime, id, imageName string, snapshot func(containerd.Image) containerd.NewContainerOpts, opts ...oci.SpecOpts) (*Container, error) {
	ctx = w.Context(ctx)
	img, err := w.Client.GetImage(ctx, imageName)
	if err != nil {
		return nil, err
	}
	spec := append([]oci.SpecOpts{oci.WithImageConfig(img)}, opts...)
	if rt.SpecVersion != "" {
		spec = append(spec, ociVersion(rt.SpecVersion))
	}
	_, err = w.Client.NewContainer(ctx, id,
		containerd.WithImage(img), containerd.WithSnapshotter("overlayfs"), snapshot(img),
		containerd.WithRuntime(rt.Type, rt.Options), containerd.WithNewSpec(spec...))
	if err != nil {
		return nil, fmt.Errorf("new container %s: %w", id, err)
	}
	return &Container{World: w, Runtime: rt, ID: id, tasks: w.Client.TaskService(), io: map[string]*Stdio{}}, nil
}

func ociVersion(v string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Version = v
		return nil
	}
}

// Reconnect makes the container use the world's client after the daemon was
// started again.
func (c *Container) Reconnect() { c.tasks = c.World.Client.TaskService() }

// Remove removes the container's metadata and snapshot.
func (c *Container) Remove(ctx context.Context) error {
	ctx = c.World.Context(ctx)
	ctr, err := c.World.Client.LoadContainer(ctx, c.ID)
	if err != nil {
		return err
	}
	return ctr.Delete(ctx, containerd.WithSnapshotCleanup)
}

// Create creates the task.
func (c *Container) Create(ctx context.Context, stdio *Stdio) error {
	ctx = c.World.Context(ctx)
	mounts, err := c.World.Client.SnapshotService("overlayfs").Mounts(ctx, c.ID)
	if err != nil {
		return err
	}
	conf, err := stdio.open(c.World, c.ID)
	if err != nil {
		return err
	}
	r, err := c.tasks.Create(ctx, &tasks.CreateTaskRequest{
		ContainerID: c.ID, Rootfs: apiMounts(mounts),
		Stdin: conf.Stdin, Stdout: conf.Stdout, Stderr: conf.Stderr, Terminal: conf.Terminal,
	})
	if err != nil {
		return errors.Join(errgrpc.ToNative(err), stdio.close())
	}
	c.Pid = r.Pid
	c.io[""] = stdio
	return nil
}

func apiMounts(mounts []mount.Mount) []*types.Mount {
	var all []*types.Mount
	for _, m := range mounts {
		all = append(all, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return all
}

// Exec registers another process.
func (c *Container) Exec(ctx context.Context, execID string, p *specs.Process, stdio *Stdio) error {
	ctx = c.World.Context(ctx)
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	conf, err := stdio.open(c.World, execID)
	if err != nil {
		return err
	}
	_, err = c.tasks.Exec(ctx, &tasks.ExecProcessRequest{
		ContainerID: c.ID, ExecID: execID,
		Stdin: conf.Stdin, Stdout: conf.Stdout, Stderr: conf.Stderr, Terminal: conf.Terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data},
	})
	if err != nil {
		return errors.Join(errgrpc.ToNative(err), stdio.close())
	}
	c.io[execID] = stdio
	return nil
}

// Process is the container's own process specification, as a base for execs.
func (c *Container) Process(ctx context.Context, args ...string) (*specs.Process, error) {
	ctx = c.World.Context(ctx)
	ctr, err := c.World.Client.LoadContainer(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	spec, err := ctr.Spec(ctx)
	if err != nil {
		return nil, err
	}
	p := *spec.Process
	p.Args = args
	p.Terminal = false
	return &p, nil
}

// Start starts the task (execID empty) or an exec, and ends its stdin when the
// Stdio's reader ends.
func (c *Container) Start(ctx context.Context, execID string) (pid uint32, err error) {
	ctx = c.World.Context(ctx)
	r, err := c.tasks.Start(ctx, &tasks.StartRequest{ContainerID: c.ID, ExecID: execID})
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	if s := c.io[execID]; s != nil && s.eof != nil {
		go func() {
			select {
			case <-s.eof:
				_ = c.CloseIO(ctx, execID) // a process that ended meanwhile has none
			case <-ctx.Done():
			}
		}()
	}
	return r.Pid, nil
}

// CloseIO ends the process's stdin.
func (c *Container) CloseIO(ctx context.Context, execID string) error {
	_, err := c.tasks.CloseIO(c.World.Context(ctx), &tasks.CloseIORequest{ContainerID: c.ID, ExecID: execID, Stdin: true})
	return errgrpc.ToNative(err)
}

// Wait waits for the end of a process.
func (c *Container) Wait(ctx context.Context, execID string) (status uint32, at time.Time, err error) {
	r, err := c.tasks.Wait(c.World.Context(ctx), &tasks.WaitRequest{ContainerID: c.ID, ExecID: execID})
	if err != nil {
		return 0, time.Time{}, errgrpc.ToNative(err)
	}
	return r.ExitStatus, r.ExitedAt.AsTime(), nil
}

// Kill sends a signal to a process, or to all of the container.
func (c *Container) Kill(ctx context.Context, execID string, signal uint32, all bool) error {
	_, err := c.tasks.Kill(c.World.Context(ctx), &tasks.KillRequest{ContainerID: c.ID, ExecID: execID, Signal: signal, All: all})
	return errgrpc.ToNative(err)
}

// Delete deletes the task, or an exec of it.
func (c *Container) Delete(ctx context.Context, execID string) (status uint32, err error) {
	ctx = c.World.Context(ctx)
	var r *tasks.DeleteResponse
	if execID == "" {
		r, err = c.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.ID})
	} else {
		r, err = c.tasks.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: c.ID, ExecID: execID})
	}
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	if s := c.io[execID]; s != nil {
		delete(c.io, execID)
		err = s.close()
	}
	return r.ExitStatus, err
}

// State asks for a process's state.
func (c *Container) State(ctx context.Context, execID string) (*tasks.GetResponse, error) {
	r, err := c.tasks.Get(c.World.Context(ctx), &tasks.GetRequest{ContainerID: c.ID, ExecID: execID})
	return r, errgrpc.ToNative(err)
}

// Pause freezes the container.
func (c *Container) Pause(ctx context.Context) error {
	_, err := c.tasks.Pause(c.World.Context(ctx), &tasks.PauseTaskRequest{ContainerID: c.ID})
	return errgrpc.ToNative(err)
}

// Resume thaws the container.
func (c *Container) Resume(ctx context.Context) error {
	_, err := c.tasks.Resume(c.World.Context(ctx), &tasks.ResumeTaskRequest{ContainerID: c.ID})
	return errgrpc.ToNative(err)
}

// ResizePty sets a terminal's size.
func (c *Container) ResizePty(ctx context.Context, execID string, width, height uint32) error {
	_, err := c.tasks.ResizePty(c.World.Context(ctx), &tasks.ResizePtyRequest{ContainerID: c.ID, ExecID: execID, Width: width, Height: height})
	return errgrpc.ToNative(err)
}

// Pids lists the container's processes: host pids, and the exec id if it is
// an exec's first process.
func (c *Container) Pids(ctx context.Context) ([]*task.ProcessInfo, error) {
	r, err := c.tasks.ListPids(c.World.Context(ctx), &tasks.ListPidsRequest{ContainerID: c.ID})
	return r.GetProcesses(), errgrpc.ToNative(err)
}

// Update changes the container's resources.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = c.tasks.Update(c.World.Context(ctx), &tasks.UpdateTaskRequest{
		ContainerID: c.ID,
		Resources:   &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: data},
	})
	return errgrpc.ToNative(err)
}

// Checkpoint asks for a checkpoint.
func (c *Container) Checkpoint(ctx context.Context) error {
	_, err := c.tasks.Checkpoint(c.World.Context(ctx), &tasks.CheckpointTaskRequest{ContainerID: c.ID})
	return errgrpc.ToNative(err)
}

// Metrics returns the container's figures as the shim gave them.
func (c *Container) Metrics(ctx context.Context) (any, error) {
	r, err := c.tasks.Metrics(c.World.Context(ctx), &tasks.MetricsRequest{Filters: []string{"id==" + c.ID}})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	if len(r.Metrics) != 1 {
		return nil, fmt.Errorf("%d metrics for one container", len(r.Metrics))
	}
	return typeurl.UnmarshalAny(r.Metrics[0].Data)
}

// Destroy removes the container whatever its state, for cleaning up.
func (c *Container) Destroy(ctx context.Context) error {
	state, err := c.State(ctx, "")
	if err == nil {
		if state.Process.Status != task.Status_STOPPED {
			_ = c.Kill(ctx, "", 9, true) // may end at this very moment
			if _, _, err := c.Wait(ctx, ""); err != nil {
				return err
			}
		}
		if _, err := c.Delete(ctx, ""); err != nil {
			return err
		}
	}
	for _, s := range c.io {
		if err := s.close(); err != nil {
			return err
		}
	}
	return c.Remove(ctx)
}

// Image is the default image of containers.
const Image = image.Busybox
