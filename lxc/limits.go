package lxc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/lxc/systemd"
)

// Unit is a scope of systemd's that the container is in.
type Unit struct {
	systemd.Scope
	// Dirs of its control group: where systemd manages no hierarchy, it leaves
	// them.
	Dirs []string `json:"dirs,omitempty"`
}

func (u *Unit) remove(ctx context.Context) error {
	if u == nil {
		return nil
	}
	return errors.Join(u.Stop(ctx), cgroup.Remove(u.Dirs))
}

// placeCgroup decides where the control group is to be.
func (c *creation) placeCgroup() (err error) {
	p := c.plan.CgroupsPath
	if !systemd.Is(p) {
		c.cgroup, err = cgroup.Path(p, filepath.Join("/lxc", c.request.Namespace, c.request.ID))
		return err
	}
	if err := systemd.Available(p); err != nil {
		return err
	}
	scope, err := systemd.Parse(p)
	if err != nil {
		return err
	}
	if c.cgroup, err = scope.Path(); err != nil {
		return err
	}
	c.unit = &Unit{Scope: scope}
	c.cgroup = path.Join(c.cgroup, cgroup.Payload)
	return nil
}

// limit makes the control group, with its limits, before there is a process.
// systemd's needs one.
func (c *creation) limit(context.Context) (err error) {
	if c.unit != nil {
		return nil
	}
	if c.group, err = cgroup.Create(c.cgroup); err != nil {
		return fmt.Errorf("linux.cgroupsPath: %q: %w", c.cgroup, err)
	}
	return c.applyLimits()
}

func (c *creation) applyLimits() error {
	c.record.Cgroups = c.group.Dirs()
	c.onFailure(func(context.Context) error { return cgroup.Remove(c.record.Cgroups) })
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	return c.group.Apply(c.plan.Resources)
}

// adopt makes systemd's scope around the waiting helper, and the group with
// the limits below it.
func (c *creation) adopt(ctx context.Context) (err error) {
	if c.unit == nil {
		return nil
	}
	c.record.Unit = c.unit
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	if err := c.unit.Start(ctx, c.Init.pid, c.plan.Resources, cgroup.Unified()); err != nil {
		c.record.Unit = nil // another's of that name, maybe
		return err
	}
	if c.group, err = cgroup.Adopt(path.Dir(c.cgroup), c.Init.pid); err != nil {
		return fmt.Errorf("linux.cgroupsPath: %q: %w", c.plan.CgroupsPath, err)
	}
	c.unit.Dirs = c.group.Above()
	return c.applyLimits()
}

// apply changes the limits of a container.
func (c *Container) apply(ctx context.Context, r *specs.LinuxResources) error {
	if c.record.Unit == nil {
		return c.group.Apply(r)
	}
	if err := c.record.Unit.Update(ctx, r, c.group.Unified()); err != nil {
		return err
	}
	return c.group.Apply(r)
}
