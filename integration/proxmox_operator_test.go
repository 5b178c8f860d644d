package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

// refusedByPct runs a command of the node's that must fail.
func refusedByPct(t *testing.T, w *place, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(within(t, time.Minute), filepath.Join(w.Node.Sbin, "pct"), args...).CombinedOutput()
	require.Error(t, err, "pct %v: %s", args, out)
	return string(out)
}

// stopped waits for LXC's end of a container that has ended.
func stopped(t *testing.T, w *place, vmid string) {
	t.Helper()
	// pct waits for it; if there is nothing to wait for any more it fails.
	out, err := exec.CommandContext(within(t, time.Minute), filepath.Join(w.Node.Sbin, "pct"), "stop", vmid).CombinedOutput()
	if err != nil {
		require.Contains(t, string(out), "not running")
	}
}

// A CT whose task is over is started by nobody but containerd.
func TestStartOfACTWhoseTaskIsOver(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := started(t, newScript(t, w, harness.LXC(), "start-again", forever...))
	vmid := recordedVMID(t, s)
	s.kill(9)
	s.wait()
	stopped(t, w, vmid)
	if version, _ := nodeOf(t); version >= ctconf.PVE91 {
		assert.Regexp(t, "unable to get PID|startup for container", refusedByPct(t, w, "start", vmid))
	} else { // which does not look whether the first process lasts
		pct(t, w, "start", vmid)
		id, err := strconv.Atoi(vmid)
		require.NoError(t, err)
		require.NoError(t, lxc.AwaitEnd(id, slow(time.Minute)), "its helper finds nobody, and ends")
	}
	s.delete()
	assert.Equal(t, "delete: 137", s.log[len(s.log)-1])
	assert.NoFileExists(t, "/etc/pve/lxc/"+vmid+".conf")
}

// A CT that an operator has destroyed is not missed.
func TestDestroyedCT(t *testing.T) {
	w := proxmox(t)
	for _, name := range []string{"stopped", "running"} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t, w)
			noGuestLeft(t)
			logged(t, w)
			s := started(t, newScript(t, w, harness.LXC(), "destroyed-"+name, forever...))
			vmid := recordedVMID(t, s)
			if name == "stopped" {
				s.kill(9)
				s.wait()
				stopped(t, w, vmid)
				pct(t, w, "destroy", vmid)
			} else {
				pct(t, w, "destroy", vmid, "--force")
				s.wait()
			}
			s.delete()
			assert.Equal(t, "delete: 137", s.log[len(s.log)-1])
			assert.NoFileExists(t, "/etc/pve/lxc/"+vmid+".conf")
		})
	}
}

// A container that reboots itself ends, as any other: who starts it again is
// containerd's client.
func TestRebootFromInsideOnProxmox(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := newScriptSpec(t, w, harness.LXC(), "reboots", []oci.SpecOpts{oci.WithAddedCapabilities([]string{"CAP_SYS_BOOT"})}, "sh", "-c", "reboot -f; exec sleep 1000")
	s.create()
	vmid := recordedVMID(t, s)
	s.start()
	s.wait()
	s.delete()
	require.NoError(t, s.last)
	// The kernel kills it by SIGKILL, and tells its parent SIGHUP (reboot(2)).
	assert.Regexp(t, "exit: (137|129)", s.log)
	assert.NoFileExists(t, "/etc/pve/lxc/"+vmid+".conf")
}

// After a power loss there is the configuration of a CT, and nothing else: /run is
// empty. It can not be started, and the first container removes it.
func TestFirstContainerAfterABoot(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := started(t, newScript(t, w, harness.LXC(), "lost", forever...))
	vmid := vmidOf(t, w, s.ID)
	id := strconv.Itoa(vmid)
	tool(t, w, "pct", "set", id, "--lock", "backup")
	s.kill(9)
	s.wait()
	s.delete()
	require.Contains(t, guests(t), vmid)
	tool(t, w, "pct", "unlock", id)
	require.NoError(t, os.RemoveAll("/run/nexcage/.pve"))
	require.NoDirExists(t, filepath.Join("/run/nexcage", w.Namespace, s.ID))

	refusedByPct(t, w, "start", id)
	require.NoError(t, wholeLife(within(t, time.Minute), w, harness.LXC(), containerID("first")))
	assert.NotContains(t, guests(t), vmid)
	assert.NoFileExists(t, host.ConfPath(vmid))
}
