package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// byMonitor is the LXC backend as it is on a kernel before 6.15.
func byMonitor() harness.Runtime {
	rt := harness.LXC()
	rt.Options = harness.Config("[routing]\ndefault_backend = \"lxc\"\n[lxc.native]\nexit_status = \"monitor\"\n")
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
// of its own.
func TestManyExitsByMonitor(t *testing.T) {
	const containers = 20
	w := world(t, harness.Versions[0].Name)
	logged(t, w)
	leaveNothing(t, w)
	g, ctx := errgroup.WithContext(within(t, 2*time.Minute))
	end := make(chan struct{})
	var created errgroup.Group
	for i := range containers {
		id, ready := containerID(fmt.Sprint("monitor-", i)), make(chan struct{})
		g.Go(func() error {
			defer close(ready)
			c, err := w.NewContainer(ctx, byMonitor(), id, harness.Image, oci.WithProcessArgs("sh", "-c", fmt.Sprint("exit ", 100+i)))
			if err != nil {
				return err
			}
			if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
				return fmt.Errorf("%s: create: %w", id, err)
			}
			ready <- struct{}{}
			<-end
			if _, err := c.Start(ctx, ""); err != nil {
				return fmt.Errorf("%s: start: %w", id, err)
			}
			return finish(ctx, c, uint32(100+i))
		})
		created.Go(func() error { <-ready; return nil })
	}
	require.NoError(t, created.Wait())
	close(end)
	assert.NoError(t, g.Wait())
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
