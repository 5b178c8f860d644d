package integration

import (
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecNetDevices is about linux.netDevices, with virtual devices of the
// session's network namespace.
func TestSpecNetDevices(t *testing.T) { runRows(t, netDeviceRows) }

const crunWithNetDevices = "1.22"

var netDeviceRows = []row{
	{
		name: "network-device", fields: []string{"linux.netDevices"}, crun: crunWithNetDevices,
		spec: func(x *shown, s *specs.Spec) {
			addDevice(x.t, "nxdev0", "10.77.1.2/24")
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nxdev0": {Name: "inner7"}}
		},
		look: func(x *shown) {
			seen := x.inside("ip", "addr", "show", "dev", "inner7")
			assert.Contains(x.t, seen, "inet 10.77.1.2/24")
			assert.Contains(x.t, seen, ",UP")
			assert.Error(x.t, exec.Command("ip", "link", "show", "dev", "nxdev0").Run(), "it has left the host")
		},
		after: func(x *shown) {
			if x.Runtime.Backend == "lxc" {
				assert.Contains(x.t, run(x.t, "ip", "addr", "show", "dev", "nxdev0"), "inet 10.77.1.2/24", "it is back")
			}
		},
	},
	{
		name: "network-device-is-missing", fields: []string{"linux.netDevices"}, crun: crunWithNetDevices,
		refused: `linux.netDevices["nosuch0"]`,
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nosuch0": {}}
		},
	},
	{
		name: "network-device-name-is-taken", fields: []string{"linux.netDevices[].name"}, crun: crunWithNetDevices,
		refused: `linux.netDevices["nxdev0"].name: "lo"`,
		spec: func(x *shown, s *specs.Spec) {
			addDevice(x.t, "nxdev0", "10.77.1.2/24")
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nxdev0": {Name: "lo"}}
		},
	},
}

// addDevice makes a device on the host that has an address, and whose other
// end is another device. The end of the test removes both.
func addDevice(t *testing.T, name, address string) {
	t.Helper()
	run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
	t.Cleanup(func() {
		assert.Contains(t, run(t, "ip", "link", "del", "dev", name), "", "it is on the host at the end")
	})
	run(t, "ip", "addr", "add", address, "dev", name)
	run(t, "ip", "link", "set", name, "up")
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", strings.Join(args, " "), out)
	return string(out)
}

// A device is on the host again when Create has failed after it was moved, and
// when the shim has died.
func TestNetDevicesReturnFromWhatFails(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	taken := func(change func(*specs.Spec)) func(x *shown, s *specs.Spec) {
		return func(x *shown, s *specs.Spec) {
			addDevice(x.t, "nxdev0", "10.77.1.2/24")
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nxdev0": {Name: "inner7"}}
			change(s)
		}
	}
	back := func(t *testing.T) {
		assert.Contains(t, run(t, "ip", "addr", "show", "dev", "nxdev0"), "inet 10.77.1.2/24")
	}
	t.Run("a hook fails", func(t *testing.T) {
		r := row{name: "hook-fails", fields: []string{"linux.netDevices"}, refused: "hooks.createRuntime", spec: taken(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		})}
		r.test(t, w, harness.LXC())
		back(t)
	})
	t.Run("the shim dies", func(t *testing.T) {
		logged(t, w)
		leaveNothing(t, w)
		x := row{name: "dies", spec: taken(func(*specs.Spec) {})}.container(t, w, harness.LXC())
		destroyed(t, x.Container)
		x.create()
		x.start()
		require.NoError(t, x.last)
		x.awaitOut(x.stdio, "runs\n")
		murder(t, shims(t)[x.ID])
		x.awaitEvent("delete 137")
		back(t)
	})
}
