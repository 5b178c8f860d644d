package integration

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
)

// On Proxmox VE 7 to 9 a container is a CT that an operator can change; what one of
// them lacks is named.
func TestVersionsOfProxmox(t *testing.T) {
	w := proxmox(t)
	former := w.Node.Version()
	t.Cleanup(func() {
		assert.NoError(t, errors.Join(w.Node.SetVersion(former), os.RemoveAll("/run/nexcage/.pve/version")))
	})
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc]\nallowed_annotations = ['io.nexcage.pve.net0']\n[lxc.pve]\nfeatures = 'nesting=1'\n")
	net := func(value string) oci.SpecOpts {
		return oci.WithAnnotations(map[string]string{"io.nexcage.pve.net0": value})
	}
	for name, v := range map[string]ctconf.Version{"7.4": ctconf.PVE7, "8.4": ctconf.PVE8, "9.0": ctconf.PVE90, "9.1": ctconf.PVE91} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t, w)
			noGuestLeft(t)
			logged(t, w)
			require.NoError(t, w.Node.SetVersion(v))
			require.NoError(t, os.RemoveAll("/run/nexcage/.pve/version"))
			require.NoError(t, wholeLife(within(t, time.Minute), w, harness.LXC(), containerID("version")))
			s := started(t, newScriptSpec(t, w, rt, "net", []oci.SpecOpts{net("ip=10.9.0.78/24"), oci.WithMemoryLimit(64 << 20)}, forever...))
			vmid := recordedVMID(t, s)
			before := confText(t, "/etc/pve/lxc/"+vmid+".conf")
			pct(t, w, "set", vmid, "--onboot", "1")
			pct(t, w, "set", vmid, "--onboot", "0")
			assert.Equal(t, before, confText(t, "/etc/pve/lxc/"+vmid+".conf"), "nothing gets lost")
			assert.Contains(t, pct(t, w, "exec", vmid, "--", "ip", "addr", "show", "eth0"), "inet 10.9.0.78/24")
			if v < ctconf.PVE91 {
				asks := newScriptSpec(t, w, rt, "dhcp", []oci.SpecOpts{net("ip=dhcp")}, forever...)
				err := asks.Create(asks.ctx, &harness.Stdio{})
				require.ErrorContains(t, err, "net0: dhcp: this Proxmox VE, "+name+", does not ask for an address for a CT")
			}
		})
	}
}
