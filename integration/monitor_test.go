package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// byMonitor is the LXC backend as it is on a kernel before 6.15.
func byMonitor() harness.Runtime {
	rt := harness.LXC()
	rt.Options = harness.Config("[routing]\ndefault_backend = \"lxc\"\n[lxc.native]\nexit_status = \"monitor\"\n[lxc.pve]\nexit_status = \"monitor\"\n")
	return rt
}

// TestExitStatusByMonitor runs the exit codes of the life-cycle table with
// statuses from lxc-monitord.
func TestExitStatusByMonitor(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	for _, sc := range append(outputs[:5:5], signals[0], signals[1]) {
		t.Run(sc.name, func(t *testing.T) { sc.test(t, w, byMonitor()) })
	}
}

// TestManyExitsByMonitor lets twenty containers end at once, each with a status
// of its own or by a signal.
func TestManyExitsByMonitor(t *testing.T) {
	manyExits(t, world(t, harness.Versions[0].Name))
}

func TestManyExitsByMonitorOnProxmox(t *testing.T) {
	manyExits(t, proxmox(t))
}

func manyExits(t *testing.T, w *place) {
	const containers = 20
	logged(t, w)
	leaveNothing(t, w)
	g, ctx := errgroup.WithContext(within(t, 3*time.Minute))
	end := make(chan struct{})
	var created errgroup.Group
	for i := range containers {
		id, ready := containerID(fmt.Sprint("monitor-", i)), make(chan struct{})
		g.Go(func() error {
			defer close(ready)
			if err := exits(ctx, w, id, i, func() { ready <- struct{}{}; <-end }); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			return nil
		})
		created.Go(func() error { <-ready; return nil })
	}
	require.NoError(t, created.Wait())
	close(end)
	assert.NoError(t, g.Wait())
}

// exits makes a container that calls await when it is created, and then ends
// with a status that i says: every fourth is killed.
func exits(ctx context.Context, w *place, id string, i int, await func()) error {
	want, args := uint32(100+i), []string{"sh", "-c", fmt.Sprint("exit ", 100+i)}
	if i%4 == 3 {
		want, args = 128+uint32(unix.SIGKILL), forever
	}
	c, err := w.NewContainer(ctx, byMonitor(), id, harness.Image, oci.WithProcessArgs(args...))
	if err != nil {
		return err
	}
	if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	await()
	if _, err := c.Start(ctx, ""); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if i%4 == 3 {
		if err := c.Kill(ctx, "", uint32(unix.SIGKILL), false); err != nil {
			return fmt.Errorf("kill: %w", err)
		}
	}
	return finish(ctx, c, want)
}

// TestKilledShimLeavesNoMonitord kills a shim that started lxc-monitord.
func TestKilledShimLeavesNoMonitord(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	logged(t, w)
	leaveNothing(t, w)
	ctx := within(t, time.Minute)
	id := containerID("monitor-killed")
	c, err := w.NewContainer(ctx, byMonitor(), id, harness.Image, oci.WithProcessArgs(forever...))
	require.NoError(t, err)
	destroyed(t, c)
	require.NoError(t, c.Create(ctx, &harness.Stdio{Null: true}))
	_, err = c.Start(ctx, "")
	require.NoError(t, err)
	murder(t, shims(t)[id])
	_, err = w.events.Await(ctx, id, "delete")
	require.NoError(t, err)
}
