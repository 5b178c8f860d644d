package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// Exec returns a further process of the container, to be started by StartExec.
// spec has been checked (oci.ParseProcess).
func (c *Container) Exec(id string, spec *specs.Process, s Stdio) (*Process, error) {
	if _, err := c.Init.Status().next(actExec); err != nil {
		return nil, err
	}
	process := oci.ExecProcess(c.plan.Process, spec)
	process.Terminal = s.Terminal
	if err := c.plan.CheckProcessIDs(process); err != nil {
		return nil, err
	}
	return newProcess(id, process, s), nil
}

// StartExec starts an added process.
func (c *Container) StartExec(ctx context.Context, p *Process) (retErr error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.status.next(actStart)
	if err != nil {
		return err
	}
	if s := c.Init.Status(); s != Running && s != Created {
		return fmt.Errorf("%w: %w", &StatusError{Action: string(actExec), Status: s}, errdefs.ErrFailedPrecondition)
	}
	defer func() {
		if retErr != nil {
			p.abort()
		}
	}()
	if err := checkLabels(p.spec); err != nil {
		return fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	for _, w := range oci.MissingCapabilities(p.spec, c.capabilities()) {
		log.G(ctx).WithField("id", c.ID()).WithField("exec", p.ID).Warn(w)
	}
	if err := c.openIO(ctx, p); err != nil {
		return err
	}
	files, err := c.processFiles(p, false)
	if err != nil {
		return err
	}
	joined, err := c.join(ctx, p, files)
	p.closeEnds(files)
	if err != nil {
		return fmt.Errorf("OCI runtime exec failed: exec failed: unable to start container process: %w", err)
	}
	p.pid, p.pidfd, p.status = joined.Child.Pid(), joined.PIDFD, next
	go func() {
		<-joined.Child.Done()
		p.finish(context.WithoutCancel(ctx), joined.Child.Exit())
	}()
	return nil
}

// abort gives up an attempt to start an exec. As with the runc shim it stays
// created. Needs p.mu.
func (p *Process) abort() {
	if p.io != nil {
		_ = p.io.Close() // nothing was written
		p.io = nil
	}
}

// join starts the process: the helper enters the container, forks, and its
// child becomes the program.
func (c *Container) join(ctx context.Context, p *Process, stdio []*os.File) (*helper.Joined, error) {
	target, flags, err := c.target()
	if err != nil {
		return nil, err
	}
	defer target.Close()
	group, err := c.group.Beside(c.Init.Pid())
	if err != nil {
		return nil, err
	}
	groups, err := group.JoinFiles()
	if err != nil {
		return nil, err
	}
	defer closeAll(groups)

	prepare, start, err := oci.ProcessOps(p.spec, c.processOptions(p))
	if err != nil {
		return nil, err
	}
	stdio, done, err := withProcfs(prepare, stdio)
	if err != nil {
		return nil, err
	}
	defer done()
	files := slices.Concat(stdio, []*os.File{target}, groups)
	initial, final := oci.AffinityOps(p.spec)
	ops := slices.Concat(initial, joinOps(len(stdio), groups, final, flags), prepare)
	joined, err := c.request.Joiner.Join(ctx, ops, files...)
	if err != nil {
		return nil, err
	}
	return joined, c.become(ctx, joined, p, start)
}

// become lets the process that has joined become the program.
func (c *Container) become(ctx context.Context, joined *helper.Joined, p *Process, start []initop.Op) error {
	err := errors.Join(
		c.record.IntelRdt.Join(joined.Child.Pid()),
		adjust(joined.Child.Pid(), p.spec),
		c.setLimits(joined.Child.Pid(), p.spec),
	)
	if err == nil {
		joined.Notify = c.listenerOf(joined.Child.Pid(), specs.StateRunning)
		err = joined.Exec(ctx, start)
	}
	if err = errors.Join(err, joined.Close()); err == nil {
		return nil
	}
	_ = pidfd.Signal(joined.PIDFD, unix.SIGKILL) // it ends by itself when the connection does
	<-joined.Child.Done()
	return errors.Join(err, joined.PIDFD.Close())
}

// target returns the init process to be joined, and the namespaces in which
// it is not with the shim.
func (c *Container) target() (*os.File, int, error) {
	c.Init.mu.Lock()
	defer c.Init.mu.Unlock()
	if c.Init.pidfd == nil {
		return nil, 0, fmt.Errorf("container %s init process is not running: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	f, err := dup(c.Init.pidfd)
	if err != nil {
		return nil, 0, err
	}
	return f, c.namespaces(), nil
}

// joinOps enter the container: the descriptors are the stdio streams of the
// process, its init, and the files of its groups.
func joinOps(stdio int, groups []*os.File, affinity []initop.Op, namespaces int) []initop.Op {
	var ops []initop.Op
	for i := range groups {
		ops = append(ops, initop.JoinCgroup(initop.FD(stdio+1+i)))
	}
	ops = append(ops, affinity...) // the group may have changed what was there before
	ops = append(ops, initop.SetNS(initop.FD(stdio), namespaces))
	if namespaces&unix.CLONE_NEWUSER != 0 {
		// setns(2) gives capabilities, but no ids of the namespace.
		ops = append(ops, initop.SetGroups(nil), initop.SetGID(0), initop.SetUID(0))
	}
	return append(ops, initop.Fork(), initop.SessionKeyring())
}

// namespaces in which the container is not with the shim.
func (c *Container) namespaces() (flags int) {
	for t := range c.plan.Namespaces {
		flags |= namespaceFlags[t]
	}
	return flags
}

// DeleteExec removes an exec that has ended or was never started.
func (c *Container) DeleteExec(ctx context.Context, p *Process) error {
	next, err := p.Status().next(actDelete)
	if err != nil {
		return err
	}
	if err := p.closeIO(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	p.status = next
	p.mu.Unlock()
	return nil
}
