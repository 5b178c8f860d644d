package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// cluster is a failure of the cluster file system, once.
func cluster(operation string, errno unix.Errno) host.Fault {
	return host.Fault{Command: "pmxcfs " + operation, Errno: int(errno), Times: 1}
}

// What the cluster file system answers when a CT is made reaches the user of ctr
// in one line that has the VMID, and leaves nothing behind.
func TestFailuresOfTheClusterAtCreate(t *testing.T) {
	w := proxmox(t)
	for _, operation := range []string{"create", "write"} {
		for errno, want := range map[unix.Errno]string{
			unix.EACCES:   "cluster not ready - no quorum?",
			unix.EIO:      "pve-cluster does not run",
			unix.ENOTCONN: "pve-cluster does not run",
			unix.ENOSPC:   "no space left on device",
		} {
			t.Run(operation+" "+errno.Error(), func(t *testing.T) {
				leaveNothing(t, w)
				noGuestLeft(t)
				logged(t, w)
				faulty(t, w, cluster(operation, errno))
				text, code, err := ctrRun(within(t, time.Minute), w, containerID("cluster"))
				require.NoError(t, err)
				assert.NotZero(t, code)
				assert.NotContains(t, text, "\n", "one line")
				assert.Contains(t, text, want)
				assert.Regexp(t, `\b9\d{5}\b`, text, "the VMID")
			})
		}
	}
}

// A CT whose configuration can neither be written nor removed again is gc's.
func TestConfigurationThatStaysEmpty(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	before := guests(t)
	faulty(t, w, cluster("write", unix.EACCES), cluster("unlink", unix.EACCES))
	text, code, err := ctrRun(within(t, time.Minute), w, containerID("empty"))
	require.NoError(t, err)
	assert.NotZero(t, code)
	assert.NotContains(t, text, "\n", "one line")
	assert.Regexp(t, `write the configuration of CT 9\d{5}`, text)
	assert.Len(t, guests(t), len(before)+1)
	collect(t, w)
	assert.Equal(t, before, guests(t))
}

// holder is what a command of Proxmox can hang at.
func holder(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hold")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	return path
}

// letGo waits until a command hangs there, and lets it go on.
func letGo(t *testing.T, hold string) {
	t.Helper()
	f, err := os.OpenFile(hold, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// What goes wrong at the end is none of the container's business: it ends with its
// own status and is deleted, and gc removes what is left, if anything is.
func TestFailuresAtTheEndOfACT(t *testing.T) {
	w := proxmox(t)
	hold := holder(t)
	for name, tc := range map[string]struct {
		fault host.Fault
		left  bool
	}{
		"no quorum":          {cluster("unlink", unix.EACCES), true},
		"cluster is down":    {cluster("unlink", unix.ENOTCONN), true},
		"out of step":        {cluster("unlink", unix.EIO), true},
		"no room":            {cluster("unlink", unix.ENOSPC), true},
		"hook fails":         {host.Fault{Command: "hook post-stop", RC: 1, Stderr: "storage is gone", Times: 1}, false},
		"hook is killed":     {host.Fault{Command: "hook post-stop", Kill: "before", Times: 1}, false},
		"hook hangs":         {host.Fault{Command: "hook post-stop", Hold: hold, Times: 1}, true},
		"hook after its end": {host.Fault{Command: "hook post-stop", Kill: "after", Times: 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t, w)
			noGuestLeft(t)
			logged(t, w)
			before := guests(t)
			faulty(t, w, tc.fault)
			if tc.fault.Hold != "" {
				defer letGo(t, hold)
			}
			text, code, err := ctrRun(within(t, time.Minute), w, containerID("end"))
			require.NoError(t, err)
			assert.Zero(t, code)
			assert.Empty(t, text)
			if tc.left {
				assert.Len(t, guests(t), len(before)+1)
				assert.Regexp(t, `^removed CT 9\d{5}\n$`, collect(t, w))
			}
			assert.Equal(t, before, guests(t))
		})
	}
}

// lxc-start is the parent of the container: with it that ends.
func TestKilledLXCStart(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := started(t, newScript(t, w, harness.LXC(), "no-monitor", forever...))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid))
	require.NoError(t, err)
	var monitor int
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	_, err = fmt.Sscan(rest, &monitor)
	require.NoError(t, err)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", monitor))
	require.NoError(t, err)
	require.Equal(t, "lxc-start\n", string(comm))
	require.NoError(t, unix.Kill(monitor, unix.SIGKILL))
	s.wait()
	s.delete()
	// Without lxc-start lxc-monitord, which tells it on kernels before 6.15, hears of
	// no status: then it is unknown.
	assert.Regexp(t, "exit: (137|255)", s.log)
}

// The delete verb does not wait for a Proxmox that takes its time: containerd
// would kill it, and report a status of its own.
func TestDeleteVerbLeavesASlowProxmoxToGC(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	before := guests(t)
	s := started(t, newScript(t, w, harness.LXC(), "slow-end", forever...))
	hold := holder(t)
	faulty(t, w, host.Fault{Command: "hook post-stop", Hold: hold, Times: 1})
	defer letGo(t, hold)
	murder(t, shims(t)[s.ID])
	s.checkEvents([]string{"create", "start", "exit 137", "delete 137"})
	assert.Len(t, guests(t), len(before)+1)
	collect(t, w)
	assert.Equal(t, before, guests(t))
}

// The version of Proxmox is asked for where it matters; a tool that fails then
// is named.
func TestFailuresOfPveversion(t *testing.T) {
	w := proxmox(t)
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc]\nallowed_annotations = ['io.nexcage.pve.net0']\n")
	for name, tc := range map[string]struct {
		fault host.Fault
		want  string
	}{
		"fails":     {host.Fault{RC: 111, Stderr: "ipcc_send_rec[1] failed: Connection refused"}, "pveversion: exit status 111: ipcc_send_rec[1] failed: Connection refused"},
		"is killed": {host.Fault{Kill: "before"}, "pveversion: exit status 137"},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t, w)
			noGuestLeft(t)
			logged(t, w)
			require.NoError(t, os.RemoveAll("/run/nexcage/.pve/version"))
			tc.fault.Command, tc.fault.Times = "pveversion", 1
			faulty(t, w, tc.fault)
			annotations := oci.WithAnnotations(map[string]string{"io.nexcage.pve.net0": "ip=dhcp"})
			s := newScriptSpec(t, w, rt, "version", []oci.SpecOpts{annotations}, "true")
			err := s.Create(s.ctx, &harness.Stdio{})
			require.ErrorContains(t, err, tc.want)
			assert.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

// Somebody holds Proxmox's lock of a configuration, and does not let it go: a
// container that wants that VMID says so, as Proxmox's tools do, and one that has it
// is deleted, its CT by gc.
func TestBusyLock(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc]\nallowed_annotations = ['io.nexcage.vmid']\n")
	s := started(t, newScript(t, w, harness.LXC(), "busy", forever...))
	vmid := vmidOf(t, w, s.ID)
	wanted := vmid + 50
	var locks []*os.File
	for _, id := range []int{vmid, wanted} {
		f, err := os.OpenFile(filepath.Join(host.LockDir, fmt.Sprintf("pve-config-%d.lock", id)), os.O_CREATE|os.O_RDWR, 0o644)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
		locks = append(locks, f)
	}
	s.kill(9)
	s.wait()
	created := make(chan error, 1)
	other := newScriptSpec(t, w, rt, "wants", []oci.SpecOpts{oci.WithAnnotations(map[string]string{"io.nexcage.vmid": fmt.Sprint(wanted)})}, forever...)
	go func() { created <- other.Create(other.ctx, &harness.Stdio{}) }()
	s.delete()
	assert.Equal(t, "delete: 137", s.log[len(s.log)-1])
	err := <-created
	require.ErrorContains(t, err, fmt.Sprintf("CT %d: its configuration is locked by another process", wanted))
	assert.NotContains(t, err.Error(), "\n", "one line")
	assert.Contains(t, guests(t), vmid)
	for _, f := range locks {
		require.NoError(t, f.Close())
	}
	assert.Equal(t, fmt.Sprintf("removed CT %d\n", vmid), collect(t, w))
}
