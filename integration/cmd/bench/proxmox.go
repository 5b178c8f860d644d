package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

// proxmox measures what a container costs beside pct and LXC when it is a CT.
// pct is a stand-in and far too fast. Our own time is what the shim's debug
// messages tell of Create and Delete, and the whole of Start; the other row has
// containerd and the start of the shim's processes in it as well: all but pct
// and the end of LXC, which is awaited before Delete.
func (b *bench) proxmox(ctx context.Context) (err error) {
	n, err := harness.StartNode(ctx, ctconf.PVE91)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := os.Setenv("NEXCAGE_TEST_DEBUG", "1"); err != nil {
		return err
	}
	w, err := harness.NewPVEWorld(ctx, harness.Versions[0], harness.Dir(), n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	p := &proxmoxSeries{
		own:    b.series("Proxmox: our own time of create, start, delete", target{lxc: atMost(30), absolute: true}),
		beside: b.series("· all but pct: with containerd and the shim's start", target{}),
		calls:  b.seriesOf(row{name: "· calls of pct in a container's life", target: target{lxc: atMost(1), absolute: true}}),
		create: b.series("· create, with the stand-in's pct", target{}),
		world:  w,
		starts: map[string]time.Duration{},
	}
	for i := range b.n {
		if err := p.sample(ctx, b.id(harness.LXC())); err != nil {
			return fmt.Errorf("sample %d: %w", i, err)
		}
	}
	return p.addOwn()
}

var ownTime = regexp.MustCompile(`msg="(?:created|deleted) LXC container".* id="?([^"\s]+)"?.* own="?([^"\s]+)`)

// addOwn adds to each Start what the log tells of the Create and the Delete.
func (p *proxmoxSeries) addOwn() error {
	if err := p.world.StopDaemon(); err != nil {
		return err
	}
	text, err := os.ReadFile(p.world.LogFile())
	if err != nil {
		return err
	}
	told := map[string]int{}
	for _, m := range ownTime.FindAllStringSubmatch(string(text), -1) {
		d, err := time.ParseDuration(m[2])
		if err != nil {
			return err
		}
		p.starts[m[1]] += d
		told[m[1]]++
	}
	for id, d := range p.starts {
		if told[id] != 2 {
			return fmt.Errorf("%s: %d debug messages with its own time, not 2", id, told[id])
		}
		p.own.add(harness.LXC(), milliseconds(d))
	}
	return nil
}

type proxmoxSeries struct {
	own, beside, calls, create *series
	world                      *harness.World
	starts                     map[string]time.Duration // by container
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
	p.starts[id] = own - create
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
	p.beside.add(rt, milliseconds(own))
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
