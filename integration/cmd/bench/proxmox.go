package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

// proxmox measures what a container costs beside pct and LXC when it is a CT.
// pct is a stand-in and far too fast: its time is taken off, and so is the
// end of LXC, which is awaited before Delete. What remains is containerd, the
// shim's start and our own work.
func (b *bench) proxmox(ctx context.Context) (err error) {
	n, err := harness.StartNode(ctx, ctconf.PVE91)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	w, err := harness.NewPVEWorld(ctx, harness.Versions[0], harness.Dir(), n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	p := &proxmoxSeries{
		own:    b.series("Proxmox: create, start, delete without pct and LXC", target{lxc: atMost(30), absolute: true}),
		calls:  b.seriesOf(row{name: "· calls of pct in a container's life", target: target{lxc: atMost(1), absolute: true}}),
		create: b.series("· create, with the stand-in's pct", target{}),
		world:  w,
	}
	for i := range b.n {
		if err := p.sample(ctx, b.id(harness.LXC())); err != nil {
			return fmt.Errorf("sample %d: %w", i, err)
		}
	}
	return nil
}

type proxmoxSeries struct {
	own, calls, create *series
	world              *harness.World
}

func (p *proxmoxSeries) sample(ctx context.Context, id string) error {
	rt := harness.LXC()
	c, err := p.world.NewContainer(ctx, rt, id, harness.Image, oci.WithProcessArgs("sleep", "1000"))
	if err != nil {
		return err
	}
	before, err := p.world.Node.Calls()
	if err != nil {
		return err
	}
	var own, create time.Duration
	timed := func(call func() error) error {
		start := time.Now()
		err := call()
		own += time.Since(start)
		return err
	}
	if err := timed(func() error { return c.Create(ctx, &harness.Stdio{Null: true}) }); err != nil {
		return err
	}
	create = own
	vmid, err := onlyCT()
	if err != nil {
		return err
	}
	if err := timed(func() error { _, err := c.Start(ctx, ""); return err }); err != nil {
		return err
	}
	if err := c.Kill(ctx, "", uint32(unix.SIGKILL), false); err != nil {
		return err
	}
	if _, _, err := c.Wait(ctx, ""); err != nil {
		return err
	}
	if err := lxc.AwaitEnd(vmid, 10*time.Second); err != nil {
		return err
	}
	if err := timed(func() error { _, err := c.Delete(ctx, ""); return err }); err != nil {
		return err
	}
	after, err := p.world.Node.Calls()
	if err != nil {
		return err
	}
	for _, call := range after[len(before):] {
		own -= time.Duration(call.MS * float64(time.Millisecond))
	}
	p.own.add(rt, milliseconds(own))
	p.create.add(rt, milliseconds(create))
	p.calls.add(rt, float64(len(after)-len(before)))
	return c.Remove(ctx)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// onlyCT is the one container of the node.
func onlyCT() (int, error) {
	guests, err := host.Guests()
	if err != nil {
		return 0, err
	}
	for id := range guests {
		if len(guests) == 1 {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%d guests on the node, not 1", len(guests))
}
