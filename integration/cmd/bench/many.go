package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

const hundred = 100

// events counts what arrives of the events of containers that end at once.
func (b *bench) events(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := b.world.Watch(ctx)
	none := target{lxc: atMost(0), crun: atMost(0), absolute: true}
	lost := b.seriesOf(row{name: fmt.Sprintf("events lost, of %d", 4*hundred), target: none})
	unordered := b.seriesOf(row{name: fmt.Sprintf("containers with events in disorder, of %d", hundred), target: none})
	for _, rt := range b.runtimes {
		var ids []string
		for range hundred {
			id := b.id(rt)
			ids = append(ids, id)
			if err := b.short(ctx, rt, id); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
		}
		counts, disorder := count(ctx, watched, ids)
		missing := 4*hundred - counts["create"] - counts["start"] - counts["exit"] - counts["delete"]
		lost.add(rt, float64(missing))
		unordered.add(rt, float64(disorder))
	}
	return nil
}

func (b *bench) short(ctx context.Context, rt harness.Runtime, id string) error {
	c, err := b.world.NewContainer(ctx, rt, id, harness.Image, oci.WithProcessArgs("true"))
	if err != nil {
		return err
	}
	if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
		return err
	}
	if _, err := c.Start(ctx, ""); err != nil {
		return err
	}
	return end(ctx, c)
}

// end waits for the container's end and removes it.
func end(ctx context.Context, c *harness.Container) error {
	if _, _, err := c.Wait(ctx, ""); err != nil {
		return err
	}
	if _, err := c.Delete(ctx, ""); err != nil {
		return err
	}
	return c.Remove(ctx)
}

// count gives late events ten seconds in all, and then counts those of each
// kind, and the containers whose events came in another order than they should.
func count(ctx context.Context, watched *harness.Events, ids []string) (map[string]int, int) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	kinds := map[string]int{}
	disorder := 0
	order := []string{"create", "start", "exit", "delete"}
	for _, id := range ids {
		_, _ = watched.Await(ctx, id, "delete") // may never come: that is what is counted
		last := -1
		for _, e := range watched.Of(id) {
			kinds[e.Kind]++
			at := slices.Index(order, e.Kind)
			if at < last {
				disorder++
				break
			}
			last = at
		}
	}
	return kinds, disorder
}

// fleet starts a hundred containers, tells of each and how long it took in
// milliseconds, calls f while all run, and ends them.
func (b *bench) fleet(ctx context.Context, rt harness.Runtime, started func(*harness.Container, float64), f func() error, spec ...oci.SpecOpts) error {
	var all []*harness.Container
	for range hundred {
		c, err := b.world.NewContainer(ctx, rt, b.id(rt), harness.Image, append(spec, oci.WithProcessArgs("sleep", "1000"))...)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
			return err
		}
		if _, err := c.Start(ctx, ""); err != nil {
			return err
		}
		started(c, float64(time.Since(start))/float64(time.Millisecond))
		all = append(all, c)
	}
	if err := f(); err != nil {
		return err
	}
	for _, c := range all {
		if err := c.Kill(ctx, "", uint32(unix.SIGKILL), false); err != nil {
			return err
		}
		if err := end(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// many compares the first containers of a hundred with the last.
func (b *bench) many(ctx context.Context) error {
	first := b.series("create and start, containers 1–20", target{})
	last := b.series("create and start, containers 81–100", target{})
	for _, rt := range b.runtimes {
		i := 0
		err := b.fleet(ctx, rt, func(_ *harness.Container, ms float64) {
			if i++; i <= 20 {
				first.add(rt, ms)
			} else if i > 80 {
				last.add(rt, ms)
			}
		}, func() error { return nil })
		if err != nil {
			return fmt.Errorf("%s: %w", rt.Name, err)
		}
	}
	growth := b.seriesOf(row{name: "· last against first", target: target{lxc: atMost(1.5), crun: atMost(1.5), absolute: true}})
	for _, rt := range b.runtimes {
		growth.add(rt, median(last.samples[rt.Name])/median(first.samples[rt.Name]))
	}
	return nil
}
