package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// throughput measures how fast a container's output comes out of the shim, and
// what processor time that costs the shim.
func (b *bench) throughput(ctx context.Context) error {
	for _, m := range []struct {
		name     string
		mebibyte int
		terminal bool
		target   target
		cost     target
	}{
		{"stdout through a FIFO", 512, false, target{lxc: atLeast(2)}, target{lxc: atMost(0.10), absolute: true}},
		{"terminal", 32, true, target{lxc: atLeast(3)}, target{}},
	} {
		speed := b.seriesOf(row{name: m.name, unit: "MB/s", target: m.target})
		used := map[string]float64{}
		err := b.each(func(rt harness.Runtime) error {
			seconds, cost, err := b.pour(ctx, rt, m.mebibyte, m.terminal)
			if err != nil {
				return err
			}
			speed.add(rt, float64(m.mebibyte)*(1<<20)/1e6/seconds)
			used[rt.Name] += cost
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		cost := b.seriesOf(row{name: "· the shim's CPU for it", unit: "s/GiB", target: m.cost})
		for _, rt := range b.runtimes {
			cost.add(rt, used[rt.Name]/(float64(m.mebibyte*b.n)/1024))
		}
	}
	return nil
}

// pour runs a container that writes zeros, and returns how long it took from
// its start to the end of its output, and the shim's CPU, both in seconds.
func (b *bench) pour(ctx context.Context, rt harness.Runtime, mebibyte int, terminal bool) (seconds, cost float64, err error) {
	id := b.id(rt)
	fifo := filepath.Join(harness.Dir(), id)
	stdio := &harness.Stdio{Stdout: fifo, Terminal: terminal}
	if !terminal {
		stdio.Stderr = fifo + "-stderr"
	}
	remove, err := fifos(stdio)
	if err != nil {
		return 0, 0, err
	}
	defer remove()
	opts := []oci.SpecOpts{oci.WithProcessArgs("dd", "if=/dev/zero", "bs=64k", "count="+strconv.Itoa(mebibyte*16))}
	if terminal {
		opts = append(opts, oci.WithTTY)
	}
	c, err := b.world.NewContainer(ctx, rt, id, harness.Image, opts...)
	if err != nil {
		return 0, 0, err
	}
	drained := make(chan drain, 1)
	go func() { drained <- discard(fifo) }()
	if err := c.Create(ctx, stdio); err != nil {
		return 0, 0, err
	}
	shims, err := processes("containerd-shim-", id)
	if err != nil || len(shims) != 1 {
		return 0, 0, fmt.Errorf("%d shims of %s: %w", len(shims), id, err)
	}
	before, err := cpu(shims[0])
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := c.Start(ctx, ""); err != nil {
		return 0, 0, err
	}
	d := <-drained
	seconds = time.Since(start).Seconds()
	if want := int64(mebibyte) << 20; d.err != nil || d.bytes < want {
		return 0, 0, fmt.Errorf("%d of %d bytes came out: %w", d.bytes, want, d.err)
	}
	after, err := cpu(shims[0])
	if err != nil {
		return 0, 0, err
	}
	return seconds, after - before, end(ctx, c)
}

// fifos makes the FIFOs; stderr's is held open, for the few words that dd writes.
func fifos(s *harness.Stdio) (remove func(), err error) {
	if err := unix.Mkfifo(s.Stdout, 0o600); err != nil {
		return nil, err
	}
	if s.Stderr == "" {
		return func() { os.Remove(s.Stdout) }, nil
	}
	if err := unix.Mkfifo(s.Stderr, 0o600); err != nil {
		return nil, err
	}
	held, err := os.OpenFile(s.Stderr, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return func() {
		held.Close()
		os.Remove(s.Stdout)
		os.Remove(s.Stderr)
	}, nil
}

type drain struct {
	bytes int64
	err   error
}

// discard reads a FIFO to its end, by splice(2): what is measured is the shim.
func discard(fifo string) drain {
	in, err := os.Open(fifo) // waits for the shim
	if err != nil {
		return drain{err: err}
	}
	defer in.Close()
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return drain{err: err}
	}
	defer out.Close()
	if _, err := unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil && !errors.Is(err, unix.EPERM) {
		return drain{err: err}
	}
	var d drain
	for {
		n, err := unix.Splice(int(in.Fd()), nil, int(out.Fd()), nil, 1<<20, unix.SPLICE_F_MOVE)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			d.err = err
			return d
		}
		d.bytes += n
	}
}
