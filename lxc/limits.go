package lxc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"reflect"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/lxc/systemd"
	"github.com/cageforge/containerd-shim-nexcage/oci"
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
	if c.unit != nil || c.request.Host.MakesGroup() {
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
	return c.setUpGroup()
}

// setUpGroup limits the group, and gives it to the user who may have it.
func (c *creation) setUpGroup() error {
	if c.plan.DelegatesCgroup() {
		uid, _ := c.hostOwner(c.plan.Process.User)
		if err := c.group.Delegate(uid); err != nil {
			return err
		}
	}
	return c.group.Apply(c.plan.Resources)
}

// groupOfLXC says whether the container is in a control group that LXC makes,
// and removes at its end.
func (c *Container) groupOfLXC() bool { return c.request.Host.MakesGroup() && c.record.Unit == nil }

// innerGroup is the name that Proxmox gives the group of the processes, below
// that of the limits.
const innerGroup = "ns"

// takeGroup takes the group that LXC has made, and limits it.
func (c *creation) takeGroup() (err error) {
	if c.group, err = cgroup.OfLXC(c.Init.pid, innerGroup); err != nil {
		return err
	}
	c.record.Cgroups = c.group.Dirs()
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	if err := c.group.Unlimit(); err != nil {
		return err
	}
	return c.setUpGroup()
}

// warm spares a helper that is to join a group of cgroup v2 most of its wait for
// that, of 5 to 20 ms. Without it the helper waits.
func (c *creation) warm(ctx context.Context) {
	if c.unit == nil && c.request.Host.MakesGroup() {
		return
	}
	if err := cgroup.Warm(); err != nil {
		log.G(ctx).WithError(err).Debug("warm up control groups")
	}
}

// enter puts the helper where it belongs: in its control group, and then in the namespaces
// that are not LXC's to make.
func (c *creation) enter(ctx context.Context) error {
	if c.unit != nil || !c.request.Host.MakesGroup() {
		return c.join(ctx)
	}
	if err := c.takeGroup(); err != nil {
		return err
	}
	return c.enterNamespaces(ctx)
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
	if err := c.unit.Start(ctx, systemd.Process{PID: c.Init.pid, PIDFD: c.Init.pidfd}, c.plan.Resources, cgroup.Unified()); err != nil {
		c.record.Unit = nil // another's of that name, maybe
		return err
	}
	if c.group, err = cgroup.Adopt(path.Dir(c.cgroup), c.Init.pid); err != nil {
		return fmt.Errorf("linux.cgroupsPath: %q: %w", c.plan.CgroupsPath, err)
	}
	c.unit.Dirs = c.group.Above()
	return c.applyLimits()
}

// withDevices completes the device rules of an update. The CRI plugin sends those
// of the spec with every update: what the container has already is left alone,
// as on cgroup v1 no device can be opened while they are written again.
func (c *Container) withDevices(r *specs.LinuxResources) *specs.LinuxResources {
	if len(r.Devices) == 0 {
		return r
	}
	update := *r
	update.Devices = oci.DeviceRules(c.spec, r.Devices)
	if reflect.DeepEqual(update.Devices, c.plan.Resources.Devices) {
		update.Devices = nil
	}
	return &update
}

// apply changes the limits of a container.
func (c *Container) apply(ctx context.Context, r *specs.LinuxResources) error {
	if c.groupOfLXC() && r != nil && r.Memory != nil && r.Memory.Limit != nil {
		if err := c.group.LiftOthers(c.plan.Resources); err != nil {
			return err
		}
	}
	if c.record.Unit != nil {
		if err := c.record.Unit.Update(ctx, r, c.group.Unified()); err != nil {
			return err
		}
	}
	if err := c.group.Apply(r); err != nil {
		return err
	}
	if len(r.Devices) > 0 {
		c.plan.Resources.Devices = r.Devices
	}
	return nil
}
