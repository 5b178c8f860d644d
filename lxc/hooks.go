package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/hook"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// createHooks are the hooks of create, for BuildWith; nil if there are none.
// Once they have begun, the poststop hooks are due, also when the creation
// fails.
func (c *creation) createHooks(ctx context.Context) func() error {
	h := c.plan.Hooks
	if h == nil {
		return nil
	}
	c.onFailure(func(ctx context.Context) error {
		return hook.RunAll(ctx, "poststop", h.Poststop, c.state(specs.StateStopped))
	})
	//lint:ignore SA1019 deprecated, but in the spec
	prestart := h.Prestart
	if len(prestart)+len(h.CreateRuntime)+len(h.CreateContainer) == 0 {
		return nil
	}
	return func() error {
		state := c.state(specs.StateCreating)
		if err := hook.Run(ctx, "prestart", prestart, state); err != nil {
			return err
		}
		if err := hook.Run(ctx, "createRuntime", h.CreateRuntime, state); err != nil {
			return err
		}
		return c.runInside(ctx, "createContainer", h.CreateContainer, specs.StateCreating, c.createContainerOps)
	}
}

// runStartHooks runs the startContainer hooks.
func (c *Container) runStartHooks(ctx context.Context) error {
	if c.plan.Hooks == nil {
		return nil
	}
	return c.runInside(ctx, "startContainer", c.plan.Hooks.StartContainer, specs.StateCreated, c.startContainerOps)
}

// runPoststart runs the poststart hooks, whose failure is only logged
// (runtime-spec, Lifecycle, step 9).
func (c *Container) runPoststart(ctx context.Context) {
	if c.plan.Hooks == nil {
		return
	}
	if err := hook.RunAll(ctx, "poststart", c.plan.Hooks.Poststart, c.state(specs.StateRunning)); err != nil {
		log.G(ctx).WithError(err).Warn("poststart hook")
	}
}

// state is what hooks get (runtime-spec, State).
func (c *Container) state(status specs.ContainerState) *specs.State {
	s := &specs.State{
		Version:     c.spec.Version,
		ID:          c.ID(),
		Status:      status,
		Bundle:      c.Bundle(),
		Annotations: c.spec.Annotations,
	}
	if status != specs.StateStopped {
		s.Pid = c.Init.pid
	}
	return s
}

// hookOps are the operations of one hook inside of the container, whose
// streams are the first descriptors.
type hookOps func(h specs.Hook) (prepare, start []initop.Op, err error)

// runInside runs hooks in the container's namespaces. The pid in their state
// is the one that they see.
func (c *Container) runInside(ctx context.Context, name string, hooks []specs.Hook, status specs.ContainerState, ops hookOps) error {
	if len(hooks) == 0 {
		return nil
	}
	state := c.state(status)
	var err error
	if state.Pid, err = innerPID(c.Init.pid); err != nil {
		return fmt.Errorf("hooks.%s: %w", name, err)
	}
	launch := func(ctx context.Context, h specs.Hook, stdio [3]*os.File) (hook.Process, error) {
		prepare, start, err := ops(h)
		if err != nil {
			return hook.Process{}, err
		}
		return c.launch(ctx, prepare, start, stdio)
	}
	return hook.RunWith(ctx, launch, name, hooks, state)
}

// innerPID is the pid of a process in its own pid namespace
// (proc_pid_status(5)).
func innerPID(pid int) (int, error) {
	file := filepath.Join("/proc", strconv.Itoa(pid), "status")
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(pids)
			return strconv.Atoi(f[len(f)-1])
		}
	}
	return 0, fmt.Errorf("%s: no NSpid", file)
}

func (c *Container) createContainerOps(h specs.Hook) (prepare, start []initop.Op, err error) {
	o := oci.ProcessOptions{Stdin: fdStdin, Stdout: fdStdout, Stderr: fdStderr}
	prepare, start = oci.HookOps(h, o, c.Bundle())
	return prepare, start, nil
}

func (c *Container) startContainerOps(h specs.Hook) (prepare, start []initop.Op, err error) {
	o := c.processOptions(c.Init)
	o.Hook, o.Terminal, o.Procfs = &h, false, fdStderr+1
	return oci.ProcessOps(c.Init.spec, o)
}

// launch starts a hook as exec starts a process.
func (c *Container) launch(ctx context.Context, prepare, start []initop.Op, stdio [3]*os.File) (hook.Process, error) {
	groups, err := c.group.JoinFiles()
	if err != nil {
		return hook.Process{}, err
	}
	defer closeAll(groups)
	target, flags, err := c.target()
	if err != nil {
		return hook.Process{}, err
	}
	defer target.Close()
	streams, done, err := withProcfs(prepare, stdio[:])
	if err != nil {
		return hook.Process{}, err
	}
	defer done()
	joined, err := c.request.Joiner.Join(ctx, append(joinOps(len(streams), groups, nil, flags), prepare...),
		slices.Concat(streams, []*os.File{target}, groups)...)
	if err != nil {
		return hook.Process{}, err
	}
	p := launched(joined)
	err = c.record.IntelRdt.Join(joined.Child.Pid())
	if err == nil {
		err = adjust(joined.Child.Pid(), c.plan.Process)
	}
	if err == nil {
		joined.Notify = c.listenerOf(joined.Child.Pid(), specs.StateCreated)
		err = joined.Exec(ctx, start)
	}
	if err = errors.Join(err, joined.Close()); err != nil {
		_ = p.Kill() // it ends by itself when the connection does
		<-p.Done()
		return hook.Process{}, errors.Join(err, p.Release())
	}
	return p, nil
}

func launched(j *helper.Joined) hook.Process {
	return hook.Process{
		Child:   j.Child,
		Kill:    func() error { return pidfd.Signal(j.PIDFD, unix.SIGKILL) },
		Release: j.PIDFD.Close,
	}
}
