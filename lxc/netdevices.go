package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/netdev"
)

// moveNetDevices applies linux.netDevices. Each is recorded before it leaves
// the host.
func (c *creation) moveNetDevices(context.Context) error {
	if len(c.plan.NetDevices) == 0 {
		return nil
	}
	space, err := networkOf(c.record.Init)
	if err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	c.network = space
	c.onFailure(func(ctx context.Context) error {
		c.record.returnNetDevices(ctx, space)
		return space.Close()
	})
	for _, want := range c.plan.NetDevices {
		d, err := netdev.Find(want.Host, want.Name)
		if err != nil {
			return err
		}
		c.record.NetDevices = append(c.record.NetDevices, d)
		if err := c.request.Save(c.record); err != nil {
			return err
		}
		last := len(c.record.NetDevices) - 1
		if err := c.record.NetDevices[last].Move(space); err != nil {
			c.record.NetDevices = c.record.NetDevices[:last] // it is where it was
			return err
		}
		if err := c.request.Save(c.record); err != nil {
			return err
		}
	}
	return nil
}

// leaveNetDevices is for a container that has been created: in a namespace
// that is joined, devices are from now on the business of whose it is
// (runtime-spec, "Namespace Lifecycle and Container Termination").
func (c *creation) leaveNetDevices(context.Context) error {
	if c.network == nil || c.plan.Namespaces[specs.NetworkNamespace].Path == "" {
		return nil
	}
	left := c.record
	left.NetDevices = nil
	if err := c.request.Save(left); err != nil {
		return err
	}
	space := c.network
	c.record, c.network = left, nil
	return space.Close()
}

// networkOf opens the network namespace of a process that lives.
func networkOf(p Proc) (*os.File, error) {
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		return nil, err
	}
	if now, err := ProcOf(p.PID); err != nil || now != p {
		return nil, errors.Join(fmt.Errorf("process %d: %w", p.PID, errdefs.ErrNotFound), err, space.Close())
	}
	return space, nil
}

// returnNetDevices gives the host its devices back, before the namespace ends:
// the kernel would destroy the virtual ones with it, and leave the others with
// the name that they had in the container. What can not be returned is left to
// it.
func (r *Record) returnNetDevices(ctx context.Context, space *os.File) {
	for i := range r.NetDevices {
		if err := r.NetDevices[i].Return(space); err != nil {
			log.G(ctx).WithError(err).WithField("bundle", r.Bundle).Warn("return a network device to the host")
		}
	}
	r.NetDevices = nil
}

// holdNetwork keeps the network namespace of a container that still runs, so
// that its devices can be returned; nil if there are none, or no namespace.
func (r *Record) holdNetwork() *os.File {
	if len(r.NetDevices) == 0 {
		return nil
	}
	space, err := networkOf(r.Init)
	if err != nil {
		return nil // the kernel has done its part
	}
	return space
}
