package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
		started: b.series("create and start", "≤ 0.90"),
		create:  b.series("· create", ""),
		start:   b.series("· start", ""),
		exec:    b.series("exec: add, start, wait, delete", "≤ 0.40"),
		state:   b.series("state", "≤ 1.00"),
		pids:    b.series("pids", "≤ 0.30"),
		stats:   b.series("stats", "≤ 1.00"),
		pause:   b.series("pause", "≤ 0.30"),
		resume:  b.series("resume", "≤ 0.30"),
		kill:    b.series("kill", "≤ 0.30"),
		delete:  b.series("delete", "≤ 0.80"),
		memory:  b.seriesOf(row{name: "shim's memory (PSS), one idle container", unit: "MB", target: "≤ 0.80"}),
		monitor: b.seriesOf(row{name: "· lxc-start beside it", unit: "MB"}),
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
	started, create, start, exec, state, pids, stats, pause, resume, kill, delete, memory, monitor *series
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
		{nil, func() error { return m.memories(c) }},
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

func (m *callSeries) memories(c *harness.Container) error {
	shims, err := processes("containerd-shim-", c.ID)
	if err != nil || len(shims) != 1 {
		return fmt.Errorf("%d shims of %s: %w", len(shims), c.ID, err)
	}
	pss, err := pssOf(shims[0])
	if err != nil {
		return err
	}
	m.memory.add(c.Runtime, pss)
	if c.Runtime.Backend != "lxc" {
		return nil
	}
	monitor, err := parent(int(c.Pid))
	if err != nil {
		return err
	}
	pss, err = pssOf(monitor)
	m.monitor.add(c.Runtime, pss)
	return err
}

// processes are the pids of those whose program's name begins with name, and
// that have an argument arg.
func processes(name, arg string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // ended
		}
		argv := strings.Split(string(data), "\x00")
		if !strings.HasPrefix(filepath.Base(argv[0]), name) {
			continue
		}
		for _, a := range argv[1:] {
			if arg == "" || a == arg {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				if err != nil {
					return nil, err
				}
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// pssOf is the proportional share of memory of a process in MB (10⁶ bytes).
func pssOf(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no Pss of process %d", pid)
}

func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:])), nil
}

func parent(pid int) (int, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(f[1])
}

// cpu is the processor time that a process has used, in seconds.
func cpu(pid int) (float64, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	const ticks = 100 // of USER_HZ in a second, on every Linux
	return (user + system) / ticks, err
}
