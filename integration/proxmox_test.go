package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// proxmoxNode is the session's stand-in Proxmox node, started by the first test
// that needs it.
var proxmoxNode *node.Node

// proxmox is a containerd on a Proxmox node.
func proxmox(t *testing.T) *place {
	t.Helper()
	if harness.Guest() && !harness.WholeGuest() {
		t.Skip("another guest is the node")
	}
	life := context.Background() // as long as the session's
	version, containerd := nodeOf(t)
	if proxmoxNode == nil {
		n, err := harness.StartNode(life, version)
		require.NoError(t, err)
		proxmoxNode = n
	}
	const key = "pve"
	if p, ok := worlds[key]; ok {
		return p
	}
	w, err := harness.NewPVEWorld(life, containerd, harness.Dir(), proxmoxNode)
	require.NoError(t, err)
	worlds[key] = &place{World: w, events: w.Watch(life), life: life}
	return worlds[key]
}

// nodeOf is the version of Proxmox VE that the node has, and its containerd:
// the newest ones, or those of NEXCAGE_TEST_NODE, such as 8.4/1.6.
func nodeOf(t *testing.T) (ctconf.Version, harness.Version) {
	t.Helper()
	want := os.Getenv("NEXCAGE_TEST_NODE")
	if want == "" {
		return ctconf.PVE91, harness.Versions[0]
	}
	var major, minor int
	var name string
	_, err := fmt.Sscanf(want, "%d.%d/%s", &major, &minor, &name)
	require.NoError(t, err, "NEXCAGE_TEST_NODE=%s", want)
	v, err := harness.FindVersion(name)
	require.NoError(t, err)
	return ctconf.Version(major*100 + minor), v
}

// On a Proxmox node a container behaves as on plain LXC.
func TestLifecycleOnProxmox(t *testing.T) {
	w := proxmox(t)
	for _, table := range [][]scenario{outputs, failures, signals, refusals, execs, terminals, resources} {
		for _, sc := range table {
			t.Run(sc.name, func(t *testing.T) { sc.test(t, w, harness.LXC()) })
		}
	}
}

// knownOnProxmox hides what is Proxmox's to say: processes are in LXC's inner
// group, and where the spec has no oomScoreAdj it is that of Proxmox's lxc-start,
// not of a shim of containerd.
func knownOnProxmox(stdout string) string {
	inner := regexp.MustCompile(`(?m)^(\d+:\S*:/\S+)/ns$`)
	score := regexp.MustCompile(`(?m)^(/proc/self/oom_score_adj):-?\d+$`)
	return score.ReplaceAllString(inner.ReplaceAllString(stdout, "$1"), "$1:…")
}

// What users of ctr see of a CT is what they see with the runc shim.
func TestCtrOnProxmox(t *testing.T) {
	w := proxmox(t)
	t.Run("run", func(t *testing.T) { looksTheSame(t, w, knownOnProxmox) })
	t.Run("terminal", func(t *testing.T) { sameTerminal(t, w) })
	t.Run("task", func(t *testing.T) { sameTask(t, w) })
}

// pct runs a command of the node's, as an operator would.
func pct(t *testing.T, w *place, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(w.Node.Sbin, "pct"), args...).CombinedOutput()
	require.NoError(t, err, "pct %v: %s", args, out)
	return string(out)
}

// recordedVMID is the VMID of a container, as its record tells it.
func recordedVMID(t *testing.T, s *script) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/run/nexcage", s.World.Namespace, s.ID, "state.json"))
	require.NoError(t, err)
	var st struct {
		Host string
		VMID int
	}
	require.NoError(t, json.Unmarshal(data, &st))
	require.Equal(t, "pve", st.Host)
	return strconv.Itoa(st.VMID)
}

// TestKilledShimLeavesNothingOnProxmox is TestKilledShimLeavesNothing for CTs.
func TestKilledShimLeavesNothingOnProxmox(t *testing.T) {
	w := proxmox(t)
	for _, phase := range phases {
		t.Run(phase.name, func(t *testing.T) {
			logged(t, w)
			leaveNothing(t, w)
			s := newScript(t, w, harness.LXC(), "ct-"+phase.name, "sh", "-c", "sleep 1001 & exec sleep 1000")
			phase.reach(s)
			require.NoError(t, s.last)
			s.awaitEvent(phase.events[len(phase.events)-3])
			vmid := recordedVMID(t, s)
			murder(t, shims(t)[s.ID])
			s.checkEvents(phase.events)
			assert.NoFileExists(t, "/etc/pve/lxc/"+vmid+".conf")
		})
	}
	t.Run("group", func(t *testing.T) {
		killedGroupLeavesNothing(t, w, harness.LXC())
		left, err := host.Guests()
		require.NoError(t, err)
		assert.Empty(t, left, "CTs")
	})
}

// What an operator does to a CT in Proxmox's UI is an end like any other.
func TestAnOperatorEndsAContainerOnProxmox(t *testing.T) {
	w := proxmox(t)
	handler := []string{"sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"}
	for name, tc := range map[string]struct {
		command, exit string
	}{
		"stop":     {"stop", "exit: 137"},
		"shutdown": {"shutdown", "exit: 5"},
		"reboot":   {"reboot", "exit: 5"},
	} {
		t.Run(name, func(t *testing.T) {
			logged(t, w)
			leaveNothing(t, w)
			s := newScript(t, w, harness.LXC(), "ui-"+name, handler...)
			s.create()
			s.start()
			require.NoError(t, s.stdio.AwaitOut(s.ctx, "ready"))
			vmid := recordedVMID(t, s)
			ended := make(chan string, 1)
			go func() {
				out, err := exec.Command(filepath.Join(w.Node.Sbin, "pct"), tc.command, vmid).CombinedOutput()
				ended <- fmt.Sprint(string(out), err)
			}()
			s.wait()
			s.delete()
			t.Log(<-ended)
			assert.Contains(t, s.log, tc.exit)
			assert.NoFileExists(t, "/etc/pve/lxc/"+vmid+".conf")
		})
	}
}

// An interface that Proxmox makes is up, with its address, on the bridge.
func TestInterfaceThatProxmoxMakes(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	leaveNothing(t, w)
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc]\nallowed_annotations = ['io.nexcage.pve.net0']\n")
	annotations := oci.WithAnnotations(map[string]string{"io.nexcage.pve.net0": "ip=10.9.0.77/24,gw=10.9.0.1"})
	s := newScriptSpec(t, w, rt, "interface", []oci.SpecOpts{annotations}, "sh", "-c", "ip addr show eth0; ip route; ip addr show lo; ping -c 1 -W 5 10.9.0.1")
	s.create()
	assert.Contains(t, pct(t, w, "config", recordedVMID(t, s)), "net0: name=eth0,bridge=vmbr0,gw=10.9.0.1,hwaddr=BC:24:11:")
	s.start()
	s.wait()
	s.delete()
	out := s.stdio.Out()
	assert.Contains(t, out, "inet 10.9.0.77/24")
	assert.Contains(t, out, "default via 10.9.0.1")
	assert.Contains(t, out, "inet 127.0.0.1/8")
	assert.Contains(t, out, "1 packets received")
}

// A container with a user namespace is an unprivileged CT for Proxmox, whose tools
// work in it.
func TestUnprivilegedCT(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	leaveNothing(t, w)
	noGuestLeft(t)
	s := started(t, remapped(t, w, harness.LXC(), "unprivileged", 200000, nil, forever...))
	vmid := recordedVMID(t, s)
	config := pct(t, w, "config", vmid)
	assert.Contains(t, config, "unprivileged: 1\n")
	assert.Contains(t, config, "lxc.idmap: u 0 200000 65536\nlxc.idmap: g 0 200000 65536\n")
	assert.Equal(t, "0 200000 65536", strings.Join(strings.Fields(pct(t, w, "exec", vmid, "--", "cat", "/proc/self/uid_map")), " "))
	pct(t, w, "set", vmid, "--memory", "96")
	assert.Contains(t, pct(t, w, "config", vmid), "lxc.idmap: u 0 200000 65536\n")
}

// What the spec says of a container means the same for a CT. The other tables are
// about what is built in the same way on every host.
func TestSpecOnProxmox(t *testing.T) {
	w := proxmox(t)
	for name, table := range map[string][]row{
		"process": processRows, "namespaces": namespaceRows, "hooks": slices.Concat(hookRows, failingHooks()),
		"network-devices": netDeviceRows, "systemd": systemdRows, "resctrl": resctrlRows,
	} {
		t.Run(name, func(t *testing.T) { each(table)(t, w, harness.LXC()) })
	}
}

// Where LXC makes a cgroup namespace for a container that joins a user namespace,
// one that the spec does not ask for is an error.
func TestJoinedUserNamespaceNeedsACgroupNamespaceOnProxmox(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	leaveNothing(t, w)
	noGuestLeft(t)
	sandbox := started(t, remapped(t, w, harness.Crun(), "sandbox", 200000, nil, forever...))
	s := remapped(t, w, harness.LXC(), "joins", 200000, []oci.SpecOpts{
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", sandbox.Pid)}),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", sandbox.Pid)}),
		oci.WithHostNamespace(specs.CgroupNamespace),
	}, forever...)
	require.ErrorContains(t, s.Create(s.ctx, &harness.Stdio{}), `linux.namespaces: a "cgroup" namespace is needed`)
}
