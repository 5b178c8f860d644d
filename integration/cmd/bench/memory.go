package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// memory measures the shim of one container, and one that serves a hundred, as
// a pod's does. Each is alone: two shims of one program would share its pages.
func (b *bench) memory(ctx context.Context) error {
	one := b.seriesOf(row{name: "shim's memory (PSS), one idle container", unit: "MB", target: target{lxc: atMost(0.80)}})
	beside := b.seriesOf(row{name: "· lxc-start beside it", unit: "MB"})
	n := b.n
	b.n = min(n, memorySamples)
	defer func() { b.n = n }()
	err := b.each(func(rt harness.Runtime) error {
		return b.idle(ctx, rt, one, beside)
	})
	if err != nil {
		return err
	}
	many := b.seriesOf(row{name: "shim's memory (PSS), 100 containers in one group", unit: "MB", target: target{lxc: atMost(1)}})
	monitors := b.seriesOf(row{name: "· the 100 lxc-start beside it", unit: "MB"})
	for _, rt := range b.runtimes {
		group := oci.WithAnnotations(map[string]string{"io.containerd.runc.v2.group": "bench-" + rt.Name})
		err := b.fleet(ctx, rt, func(*harness.Container, float64) {}, func() error { return memories(rt, many, monitors) }, group)
		if err != nil {
			return fmt.Errorf("%s: %w", rt.Name, err)
		}
	}
	return nil
}

// memorySamples bounds how often the idle shim of one container is measured: it
// takes some seconds each, and hardly varies.
const memorySamples = 5

// idle measures the shim of one container.
func (b *bench) idle(ctx context.Context, rt harness.Runtime, shim, monitor *series) error {
	c, err := b.world.NewContainer(ctx, rt, b.id(rt), harness.Image, oci.WithProcessArgs("sleep", "1000"))
	if err != nil {
		return err
	}
	if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
		return err
	}
	if _, err := c.Start(ctx, ""); err != nil {
		return err
	}
	if err := memories(rt, shim, monitor); err != nil {
		return err
	}
	if err := c.Kill(ctx, "", uint32(unix.SIGKILL), false); err != nil {
		return err
	}
	return end(ctx, c)
}

// memories adds the memory of the only shim, once it is idle, and that of its
// containers' lxc-start.
func memories(rt harness.Runtime, shim, monitor *series) error {
	shims, err := aloneShim()
	if err != nil {
		return err
	}
	pss, err := idlePSS(shims)
	if err != nil {
		return err
	}
	shim.add(rt, pss)
	if rt.Backend != "lxc" {
		return nil
	}
	pids, err := processes("lxc-start", "")
	if err != nil {
		return err
	}
	total := 0.0
	for _, pid := range pids {
		pss, err := pssOf(pid)
		if err != nil {
			return err
		}
		total += pss
	}
	monitor.add(rt, total)
	return nil
}

// aloneShim waits until the shims of earlier samples have ended: they do so a
// little after their last container's deletion was answered.
func aloneShim() (int, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		shims, err := processes("containerd-shim-", "")
		if err != nil {
			return 0, err
		}
		if len(shims) == 1 {
			return shims[0], nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%d shims instead of one", len(shims))
		}
	}
}

// idlePSS waits until the memory of a shim has not changed for some seconds, and
// returns it; at most idleBound. Any shim may give memory back when it is idle.
func idlePSS(pid int) (float64, error) {
	last, since := -1.0, time.Now()
	for deadline := time.Now().Add(idleBound); ; time.Sleep(100 * time.Millisecond) {
		pss, err := pssOf(pid)
		if err != nil {
			return 0, err
		}
		if pss != last {
			last, since = pss, time.Now()
		}
		if time.Since(since) > idleTime || time.Now().After(deadline) {
			return pss, nil
		}
	}
}

const (
	idleTime  = 4 * time.Second
	idleBound = 45 * time.Second
)
