package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/hook"
	"github.com/cageforge/containerd-shim-nexcage/lxc/monitor"
	"github.com/cageforge/containerd-shim-nexcage/lxc/rootfs"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// Container is a container from the end of Create to the end of Delete.
type Container struct {
	Init *Process

	starting sync.Mutex // held by Start
	updating sync.Mutex // held by Update
	request  Request
	spec     *specs.Spec
	plan     *oci.Plan
	start    []initop.Op  // what is left to be done at Start
	conn     *helper.Conn // to the waiting helper; nil once it is the user's process
	instance Instance
	exits    *monitor.Watcher // if the exit status comes from LXC; nil otherwise
	group    *cgroup.Group
	root     *rootfs.Root
	record   Record
	network  *os.File // the network namespace, if there are devices to be returned from it
}

// ID of the container.
func (c *Container) ID() string { return c.request.ID }

// Bundle directory of the container.
func (c *Container) Bundle() string { return c.request.Bundle }

// Group is the container's control group.
func (c *Container) Group() *cgroup.Group { return c.group }

// Start makes the waiting helper the user's process.
func (c *Container) Start(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	p := c.Init
	if _, err := p.Status().next(actStart); err != nil {
		return err
	}
	// Without the lock of the process: it may be killed meanwhile.
	if err := c.runStartHooks(ctx); err != nil {
		// "generate an error, stop the container" (runtime-spec, Lifecycle)
		return fmt.Errorf("OCI runtime start failed: %w", errors.Join(err, ignoreNotFound(p.signal(unix.SIGKILL))))
	}
	if err := c.execute(ctx); err != nil {
		return err
	}
	c.runPoststart(ctx)
	return nil
}

// execute lets the helper execute the user's program.
func (c *Container) execute(ctx context.Context) error {
	p := c.Init
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.status.next(actStart)
	if err != nil {
		return err
	}
	// runc and crun load the filter during create.
	c.conn.Notify = c.listenerOf(p.pid, specs.StateCreating)
	if err := c.conn.Exec(ctx, c.start); err != nil {
		return fmt.Errorf("OCI runtime start failed: unable to start container process: %w", err)
	}
	p.status = next
	err = c.conn.Close()
	c.conn = nil
	return err
}

func ignoreNotFound(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}

// Pause freezes every process of the container.
func (c *Container) Pause(ctx context.Context) error {
	return c.freezer(actPause, func() error { return c.group.Freeze(ctx) })
}

// Resume lets them run on.
func (c *Container) Resume(ctx context.Context) error {
	return c.freezer(actResume, func() error { return c.group.Thaw(ctx) })
}

func (c *Container) freezer(a action, do func() error) error {
	p := c.Init
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.status.next(a)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s container %s: %w", a, c.ID(), err)
	}
	p.status = next
	return nil
}

// Kill sends a signal to the process, or, for the init process with all, to
// every process of the container. ErrNotFound if the process has ended.
func (c *Container) Kill(ctx context.Context, p *Process, sig unix.Signal, all bool) error {
	if all && p == c.Init {
		return c.killAll(ctx, sig)
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	if sig != unix.SIGKILL || p != c.Init || p.Status() != Paused {
		return nil
	}
	// A frozen process dies only when it is thawed (cgroup v1).
	return c.group.Thaw(ctx)
}

func (c *Container) killAll(ctx context.Context, sig unix.Signal) error {
	if s := c.Init.Status(); s == Stopped || s == Deleted {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return c.group.Kill(ctx, sig)
}

// Pids returns the host's pids of every process of the container.
func (c *Container) Pids() ([]int, error) {
	if s := c.Init.Status(); s == Stopped || s == Deleted {
		return nil, nil
	}
	return c.group.Pids()
}

// Update changes the resources of a container that has not ended.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	if err := c.update(ctx, r); err != nil {
		return err
	}
	c.request.Host.Show(ctx, &c.record, r)
	return nil
}

func (c *Container) update(ctx context.Context, r *specs.LinuxResources) error {
	c.Init.mu.Lock()
	defer c.Init.mu.Unlock()
	if _, err := c.Init.status.next(actUpdate); err != nil {
		return err
	}
	return c.apply(ctx, c.withDevices(r))
}

// Stats returns the figures of the container's control group, of its end once
// it has ended.
func (c *Container) Stats() (any, error) { return c.group.Stats() }

// Delete removes the container. It must have ended, or never been started;
// then it is killed. The exit is delivered before Delete returns.
func (c *Container) Delete(ctx context.Context) error {
	p := c.Init
	p.mu.Lock()
	next, err := p.status.next(actDelete)
	created := p.status == Created
	p.mu.Unlock()
	if err != nil {
		if p.Status() == Deleted {
			return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return err
	}
	if created {
		if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.release(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	p.status = next
	p.mu.Unlock()
	return nil
}

// release gives back everything that a container which has ended has.
func (c *Container) release(ctx context.Context) (retErr error) {
	var errs []error
	errs = append(errs, c.Init.closeIO(ctx))
	begin := time.Now()
	defer func() {
		if retErr == nil {
			log.G(ctx).WithFields(log.Fields{"id": c.ID(), "own": time.Since(begin).Round(time.Microsecond).String()}).Debug("deleted LXC container")
		}
	}()
	removing, cancel, err := c.awaitLXC(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	begin = time.Now() // the wait for LXC is not ours
	if c.conn != nil {
		errs = append(errs, c.conn.Close())
	}
	errs = append(errs, c.root.Close(), c.record.remove(removing))
	if c.plan.Hooks != nil {
		errs = append(errs, hook.RunAll(ctx, "poststop", c.plan.Hooks.Poststop, c.state(specs.StateStopped)))
	}
	return errors.Join(errs...)
}

// endTimeout is how long Proxmox may take to clean up after a container. Its hooks
// may hang with a storage: then gc removes the CT.
const endTimeout = 10 * time.Second

// awaitLXC waits until LXC has cleaned up. What it returns is for what is to be removed
// then.
func (c *Container) awaitLXC(ctx context.Context) (context.Context, context.CancelFunc, error) {
	var late <-chan time.Time
	if c.record.Host == HostPVE {
		timer := time.NewTimer(endTimeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-c.instance.Done():
		return ctx, func() {}, nil
	case <-late:
		log.G(ctx).WithField("vmid", c.record.VMID).Warn("Proxmox still cleans up after the container, which is deleted nevertheless")
		ctx, cancel := context.WithTimeout(ctx, time.Second) // the wait for the CT is over
		return ctx, cancel, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("container %s: LXC still cleans up: %w", c.ID(), ctx.Err())
	}
}

// watch delivers the exit of the init process.
func (c *Container) watch(ctx context.Context) {
	exit := c.instanceExit(ctx)
	if c.sharesPids() {
		// No kernel ends the others with it.
		if err := c.group.KillAndWait(ctx); err != nil {
			log.G(ctx).WithError(err).Error("kill the processes that the init process left")
		}
	}
	if c.network != nil {
		c.record.returnNetDevices(ctx, c.network)
		_ = c.network.Close() // nothing was written
	}
	if c.groupOfLXC() {
		// LXC is about to remove it.
		if err := c.group.Keep(); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.ID()).Warn("last figures of the control group")
		}
	}
	// A volume is busy until then, and what the host does next is to let it go.
	if err := c.root.Close(); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.ID()).Warn("close the root file system")
	}
	c.instance.Ended()
	c.Init.finish(ctx, exit)
}

// sharesPids says whether the init process is not the first of a pid
// namespace of its own.
func (c *Container) sharesPids() bool {
	ns, ok := c.plan.Namespaces[specs.PIDNamespace]
	return !ok || ns.Path != ""
}
