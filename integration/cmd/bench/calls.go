package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// calls measures each call of the task service on its own, on one container
// after the other.
func (b *bench) calls(ctx context.Context) error {
	m := &callSeries{
		started: b.series("create and start", target{lxc: atMost(0.90)}),
		create:  b.series("· create", target{}),
		start:   b.series("· start", target{}),
		exec:    b.series("exec: add, start, wait, delete", target{lxc: atMost(0.40)}),
		state:   b.series("state", target{lxc: atMost(1)}),
		pids:    b.series("pids", target{lxc: atMost(0.30)}),
		stats:   b.series("stats", target{lxc: atMost(1)}),
		pause:   b.series("pause", target{lxc: atMost(0.30)}),
		resume:  b.series("resume", target{lxc: atMost(0.30)}),
		kill:    b.series("kill", target{lxc: atMost(0.30)}),
		delete:  b.series("delete", target{lxc: atMost(0.80)}),
	}
	return b.each(func(rt harness.Runtime) error {
		c, err := b.world.NewContainer(ctx, rt, b.id(rt), harness.Image, oci.WithProcessArgs("sleep", "1000"))
		if err != nil {
			return err
		}
		return m.sample(ctx, c)
	})
}

type callSeries struct {
	started, create, start, exec, state, pids, stats, pause, resume, kill, delete *series
}

func (m *callSeries) sample(ctx context.Context, c *harness.Container) error {
	rt := c.Runtime
	process, err := c.Process(ctx, "true")
	if err != nil {
		return err
	}
	start := time.Now()
	steps := []struct {
		series *series
		call   func() error
	}{
		{m.create, func() error { return c.Create(ctx, &harness.Stdio{Null: true}) }},
		{m.start, func() error { _, err := c.Start(ctx, ""); return err }},
		{nil, func() error { m.started.add(rt, float64(time.Since(start))/float64(time.Millisecond)); return nil }},
		{m.exec, func() error { return wholeExec(ctx, c, process) }},
		{m.state, func() error { _, err := c.State(ctx, ""); return err }},
		{m.pids, func() error { _, err := c.Pids(ctx); return err }},
		{m.stats, func() error { _, err := c.Metrics(ctx); return err }},
		{m.pause, func() error { return c.Pause(ctx) }},
		{m.resume, func() error { return c.Resume(ctx) }},
		{m.kill, func() error { return c.Kill(ctx, "", uint32(unix.SIGKILL), false) }},
		{nil, func() error { _, _, err := c.Wait(ctx, ""); return err }},
		{m.delete, func() error { _, err := c.Delete(ctx, ""); return err }},
		{nil, func() error { return c.Remove(ctx) }},
	}
	for i, s := range steps {
		call := s.call
		if s.series != nil {
			call = func() error { return s.series.time(rt, s.call) }
		}
		if err := call(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func wholeExec(ctx context.Context, c *harness.Container, p *specs.Process) error {
	if err := c.Exec(ctx, "e", p, &harness.Stdio{Null: true}); err != nil {
		return err
	}
	if _, err := c.Start(ctx, "e"); err != nil {
		return err
	}
	if _, _, err := c.Wait(ctx, "e"); err != nil {
		return err
	}
	_, err := c.Delete(ctx, "e")
	return err
}
