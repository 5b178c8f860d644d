package pve

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

func TestAnInterfaceIsWhatProxmoxAndLXCNeed(t *testing.T) {
	const mac = "hwaddr=BC:24:11:00:00:01"
	for name, tc := range map[string]struct {
		text, prop, lines string
	}{
		"bridge alone": {"bridge=vmbr1," + mac, "name=eth2,bridge=vmbr1," + mac + ",type=veth", "lxc.net.2.flags = up\n"},
		"default bridge, static": {"ip=10.0.0.2/24,gw=10.0.0.1,tag=20," + mac, "name=eth2,bridge=vmbr0,gw=10.0.0.1," + mac + ",ip=10.0.0.2/24,tag=20,type=veth",
			"lxc.net.2.flags = up\nlxc.net.2.ipv4.address = 10.0.0.2/24\nlxc.net.2.ipv4.gateway = 10.0.0.1\n"},
		"version 6": {"ip6=fd00::2/64,gw6=fd00::1,name=lan," + mac, "name=lan,bridge=vmbr0,gw6=fd00::1," + mac + ",ip6=fd00::2/64,type=veth",
			"lxc.net.2.flags = up\nlxc.net.2.ipv6.address = fd00::2/64\nlxc.net.2.ipv6.gateway = fd00::1\n"},
		"manual": {"ip=manual," + mac, "name=eth2,bridge=vmbr0," + mac + ",ip=manual,type=veth", "lxc.net.2.flags = up\n"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := ParseNet(2, tc.text, "vmbr0")
			require.NoError(t, err)
			assert.Equal(t, Prop{"net2", tc.prop}, n.prop())
			lines, err := lxcconf.Marshal(n.lines())
			require.NoError(t, err)
			assert.Equal(t, tc.lines, string(lines))
		})
	}
	n, err := ParseNet(0, "bridge=vmbr0", "vmbr0")
	require.NoError(t, err)
	assert.Regexp(t, regexp.MustCompile(`hwaddr=BC:24:11(:[0-9A-F]{2}){3},`), n.prop().Value)
}

func TestAnInterfaceThatIsWrongIsNamed(t *testing.T) {
	for _, text := range []string{
		"", "bridge", "bridge=", "bridge=a b", "colour=red", "ip=10.0.0.2", "ip=fd00::1/64", "ip6=auto", "ip6=10.0.0.2/24", "gw=10.0.0.1", "gw=x,ip=10.0.0.2/24",
		"ip=dhcp,gw=10.0.0.1", "bridge=a,bridge=b", "hwaddr=1", "host-managed=1", "type=phys", "name=a\nonboot: 1",
	} {
		_, err := ParseNet(3, text, "vmbr0")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%q", text)
		assert.ErrorContains(t, err, "net3: ")
	}
}

// pveversion is a script that notes how often it was called.
func pveversion(t *testing.T, answer string) (*Client, func() int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pveversion")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho x >>%s.calls\n%s\n", path, answer), 0o700))
	return &Client{Pveversion: path}, func() int {
		calls, err := os.ReadFile(path + ".calls")
		require.NoError(t, err)
		return len(calls) / 2
	}
}

func TestDHCPIsTheHostsWorkFrom91On(t *testing.T) {
	for version, want := range map[string]error{"9.1.4": nil, "10.0.1": nil, "9.0.3": errdefs.ErrNotImplemented, "8.4.1": errdefs.ErrNotImplemented} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			client, calls := pveversion(t, "echo 'pve-manager/"+version+"/abc (running kernel: 6.17)'")
			for range 2 {
				i, err := ParseNet(0, "ip=dhcp", "vmbr0")
				require.NoError(t, err)
				require.ErrorIs(t, n.setupNets(t.Context(), client, []Net{i}), want)
				assert.Equal(t, want == nil, i.props["host-managed"] == "1")
			}
			assert.Equal(t, 1, calls(), "once after each boot")
			require.NoError(t, os.Chmod(client.Pveversion, 0o755)) // as if installed
			_, err := n.version(t.Context(), client)
			require.NoError(t, err)
			assert.Equal(t, 2, calls(), "and after each upgrade")
		})
	}
}

func TestAVersionThatCanNotBeToldIsAnError(t *testing.T) {
	for _, answer := range []string{"exit 3", "echo nonsense"} {
		n := newNode(t)
		client, _ := pveversion(t, answer)
		i, err := ParseNet(0, "ip=dhcp", "vmbr0")
		require.NoError(t, err)
		assert.Error(t, n.setupNets(t.Context(), client, []Net{i}))
	}
}

func FuzzParseNet(f *testing.F) {
	f.Add("bridge=vmbr0,ip=10.0.0.2/24")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseNet(0, text, "vmbr0")
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		_, err = (&Conf{Props: []Prop{n.prop()}}).Marshal()
		require.NoError(t, err)
		_, err = lxcconf.Marshal(n.lines())
		require.NoError(t, err)
	})
}
