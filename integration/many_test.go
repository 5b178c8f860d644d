package integration

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestManyAtOnceLeaveNothing creates, executes in and deletes fifty containers
// at the same time, ten times.
func TestManyAtOnceLeaveNothing(t *testing.T) {
	rounds, containers := fewer(10), fewer(50)
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for round := range rounds {
			t.Run(strconv.Itoa(round), func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				g, ctx := errgroup.WithContext(within(t, 3*time.Minute))
				for i := range containers {
					id := containerID(fmt.Sprint("many-", i))
					g.Go(func() error { return wholeLife(ctx, w, rt, id) })
				}
				assert.NoError(t, g.Wait())
			})
		}
	})
}

// wholeLife is create, start, exec, kill, delete.
func wholeLife(ctx context.Context, w *place, rt harness.Runtime, id string) (err error) {
	c, err := w.NewContainer(ctx, rt, id, harness.Image, oci.WithProcessArgs(forever...))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", id, err)
			_ = c.Destroy(context.WithoutCancel(ctx)) // the first error counts
		}
	}()
	if err := c.Create(ctx, &harness.Stdio{}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := c.Start(ctx, ""); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := execEcho(ctx, c); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if err := c.Kill(ctx, "", uint32(unix.SIGKILL), false); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	return finish(ctx, c, 137)
}

func execEcho(ctx context.Context, c *harness.Container) error {
	p, err := c.Process(ctx, "sh", "-c", "echo "+c.ID+"; exit 3")
	if err != nil {
		return err
	}
	stdio := &harness.Stdio{}
	if err := c.Exec(ctx, "e", p, stdio); err != nil {
		return err
	}
	if _, err := c.Start(ctx, "e"); err != nil {
		return err
	}
	status, _, err := c.Wait(ctx, "e")
	if err != nil {
		return err
	}
	if err := stdio.Wait(ctx); err != nil {
		return err
	}
	if _, err := c.Delete(ctx, "e"); err != nil {
		return err
	}
	if status != 3 || stdio.Out() != c.ID+"\n" {
		return fmt.Errorf("exit %d, output %q", status, stdio.Out())
	}
	return nil
}

// finish waits for the task's end, and deletes task and container.
func finish(ctx context.Context, c *harness.Container, want uint32) error {
	status, _, err := c.Wait(ctx, "")
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if status != want {
		return fmt.Errorf("exit %d, not %d", status, want)
	}
	if _, err := c.Delete(ctx, ""); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return c.Remove(ctx)
}

// TestEveryEventArrives runs two hundred containers that end at once, one
// after the other and eight at a time: each has all its events, in order.
func TestEveryEventArrives(t *testing.T) {
	containers := fewer(200)
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, atOnce := range []int{1, 8} {
			t.Run(fmt.Sprintf("%d-at-a-time", atOnce), func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				g, ctx := errgroup.WithContext(within(t, 5*time.Minute))
				g.SetLimit(atOnce)
				var ids []string
				for i := range containers {
					id := containerID(fmt.Sprint("true-", i))
					ids = append(ids, id)
					g.Go(func() error { return shortLife(ctx, w, rt, id) })
				}
				require.NoError(t, g.Wait())
				complete(t, w, ids)
			})
		}
	})
}

func shortLife(ctx context.Context, w *place, rt harness.Runtime, id string) error {
	c, err := w.NewContainer(ctx, rt, id, harness.Image, oci.WithProcessArgs("true"))
	if err != nil {
		return err
	}
	if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
		return fmt.Errorf("%s: create: %w", id, err)
	}
	if _, err := c.Start(ctx, ""); err != nil {
		return fmt.Errorf("%s: start: %w", id, err)
	}
	if err := finish(ctx, c, 0); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

func complete(t *testing.T, w *place, ids []string) {
	ctx := within(t, time.Minute)
	for _, id := range ids {
		_, err := w.events.Await(ctx, id, "delete")
		assert.NoError(t, err, id)
		assert.Equal(t, ended("0"), harness.Strings(w.events.Of(id)), id)
	}
}
