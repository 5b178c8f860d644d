package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// faulty lets Proxmox's commands fail during a test.
func faulty(t *testing.T, w *place, faults ...host.Fault) {
	t.Helper()
	require.NoError(t, w.Node.SetFaults(faults...))
	t.Cleanup(func() { assert.NoError(t, w.Node.SetFaults()) })
}

// Every way in which `pct start` was seen to fail reaches the user of ctr in
// one line that has the VMID, and leaves nothing behind.
func TestFailuresOfPctStart(t *testing.T) {
	w := proxmox(t)
	for name, tc := range map[string]struct {
		fault host.Fault
		want  string
	}{
		"locked":             {host.Fault{Error: "locked"}, "CT is locked (backup)"},
		"lock timeout":       {host.Fault{Error: "lock-timeout"}, "got timeout"},
		"no quorum":          {host.Fault{Error: "no-quorum"}, "cluster not ready - no quorum?"},
		"configuration gone": {host.Fault{Error: "no-conf"}, "does not exist"},
		"hook failed":        {host.Fault{Error: "start-failed"}, "Script exited with status 1"},
		"no pid":             {host.Fault{Error: "no-pid"}, "unable to get PID for CT"},
		"no cluster":         {host.Fault{Error: "down"}, "Connection refused"},
		"no message":         {host.Fault{RC: 255, Stderr: "\n"}, "no message"},
		"many lines":         {host.Fault{RC: 255, Stdout: strings.Repeat("noise\n", 500), Stderr: "the last word"}, "the last word"},
		"killed before":      {host.Fault{Kill: "before"}, "pct start"},
		"killed in between":  {host.Fault{Kill: "middle"}, "pct start"},
		"killed after":       {host.Fault{Kill: "after"}, "pct start"},
		"its worker goes on": {host.Fault{Kill: "parent"}, "pct start"},
		"hook of Proxmox":    {host.Fault{Command: "hook pre-start", RC: 1, Stderr: "storage is gone"}, "startup for container"},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t, w)
			noGuestLeft(t)
			logged(t, w)
			if tc.fault.Command == "" {
				tc.fault.Command = "pct start"
			}
			tc.fault.Times = 1
			faulty(t, w, tc.fault)
			id := containerID("fault")
			text, code, err := ctrRun(within(t, time.Minute), w, id)
			require.NoError(t, err)
			assert.NotZero(t, code)
			assert.NotContains(t, text, "\n", "one line")
			assert.Contains(t, text, tc.want)
			assert.Regexp(t, `\b9\d{5}\b`, text, "the VMID")
		})
	}
}

// A slow Proxmox is only slow.
func TestSlowProxmox(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	faulty(t, w, host.Fault{Command: "pct start", DelayMS: 1500}, host.Fault{Command: "hook pre-start", DelayMS: 700}, host.Fault{Command: "hook post-stop", DelayMS: 700})
	require.NoError(t, wholeLife(within(t, time.Minute), w, harness.LXC(), containerID("slow")))
}

// Without quorum nothing new starts; what runs goes on, and is deleted for
// containerd.
func TestNoQuorum(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.LXC(), containerID("quorum"), harness.Image, oci.WithProcessArgs(forever...))
	require.NoError(t, err)
	require.NoError(t, c.Create(ctx, &harness.Stdio{Null: true}))
	_, err = c.Start(ctx, "")
	require.NoError(t, err)
	vmid := vmidOf(t, w, c.ID)

	require.NoError(t, w.Node.SetQuorum(false))
	t.Cleanup(func() { assert.NoError(t, w.Node.SetQuorum(true)) })
	text, code, err := ctrRun(ctx, w, containerID("quorum-new"))
	require.NoError(t, err)
	assert.NotZero(t, code)
	assert.NotContains(t, text, "\n", "one line")
	assert.Contains(t, text, "quorum")
	require.NoError(t, execEcho(ctx, c), "a running container does not need the cluster")
	kill(t, ctx, c)
	_, err = c.Delete(ctx, "")
	require.NoError(t, err, "for containerd it is gone")
	assert.Contains(t, guests(t), vmid, "for the cluster not yet")

	require.NoError(t, w.Node.SetQuorum(true))
	again(t, w, c)
	assert.NotContains(t, guests(t), vmid)
}

// again is another life of a container of that name, which finds what the one
// before it could not remove.
func again(t *testing.T, w *place, c *harness.Container) {
	t.Helper()
	ctx := within(t, time.Minute)
	require.NoError(t, c.Remove(ctx))
	require.NoError(t, wholeLife(ctx, w, harness.LXC(), c.ID))
}

// A CT that a backup has locked is left until the lock is gone.
func TestLockedCT(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.LXC(), containerID("locked"), harness.Image, oci.WithProcessArgs(forever...))
	require.NoError(t, err)
	require.NoError(t, c.Create(ctx, &harness.Stdio{Null: true}))
	_, err = c.Start(ctx, "")
	require.NoError(t, err)
	vmid := vmidOf(t, w, c.ID)
	tool(t, w, "pct", "set", fmt.Sprint(vmid), "--lock", "backup")
	kill(t, ctx, c)
	_, err = c.Delete(ctx, "")
	require.NoError(t, err)
	assert.Contains(t, confText(t, host.ConfPath(vmid)), "lock: backup\n")
	tool(t, w, "pct", "unlock", fmt.Sprint(vmid))
	again(t, w, c)
	assert.NotContains(t, guests(t), vmid)
}
