package lxc

import (
	"context"

	"github.com/cageforge/containerd-shim-nexcage/lxc/resctrl"
)

// joinResctrl applies linux.intelRdt: the init joins before it has children.
func (c *creation) joinResctrl(context.Context) error {
	if c.plan.IntelRdt == nil {
		return nil
	}
	group, err := resctrl.Create(c.plan.IntelRdt, c.ID())
	if group != nil {
		made := *group
		c.onFailure(func(context.Context) error { return made.Remove() })
	}
	if err != nil {
		return err
	}
	c.record.IntelRdt = group
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	return group.Join(c.Init.pid)
}
