package pve

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// What is written is the same for all versions of Proxmox, but for addresses that
// the host asks for. TestProxmoxKeepsWhatIsWritten reads these files as each of them does.
func TestTheConfigurationForEachVersion(t *testing.T) {
	for version, hasDHCP := range map[string]bool{"7.4-19": false, "8.4.14": false, "9.0.11": false, "9.1.4": true} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			client, _ := pveversion(t, "echo 'pve-manager/"+version+"/abc (running kernel: 6.17)'")
			c := newConfig(t, "c1")
			c.About = About{Namespace: "k8s.io", ID: "c1", Image: "docker.io/library/nginx:1"}
			c.Features = "nesting=1"
			c.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(100 << 20))},
				CPU:    &specs.LinuxCPU{Quota: ptr(int64(150000)), Shares: ptr(uint64(1024))},
			}
			c.IDMap = oci.IDMap{UIDs: []specs.LinuxIDMapping{{HostID: 1000000, Size: 65536}}, GIDs: []specs.LinuxIDMapping{{HostID: 1000000, Size: 65536}}}
			c.Lines = append(c.Lines, lxcconf.Set(idmapKey, "u 0 1000000 65536"), lxcconf.Set(idmapKey, "g 0 1000000 65536"))
			lan, err := ParseNet(0, "ip=10.0.0.2/24,gw=10.0.0.1,tag=20,hwaddr=BC:24:11:00:00:01", "vmbr0")
			require.NoError(t, err)
			wan, err := ParseNet(1, "ip=dhcp,hwaddr=BC:24:11:00:00:02", "vmbr1")
			require.NoError(t, err)
			err = n.setupNets(t.Context(), client, []Net{lan, wan})
			c.Nets = []Net{lan}
			if hasDHCP {
				require.NoError(t, err)
				c.Nets = append(c.Nets, wan)
			} else {
				require.ErrorIs(t, err, errdefs.ErrNotImplemented)
				assert.ErrorContains(t, err, "net1: dhcp: this Proxmox VE, "+version[:3]+",")
			}
			text, err := c.conf(n, 900000)
			require.NoError(t, err)
			golden(t, "ct-"+version[:3]+".conf", generic(c, text))
		})
	}
}
