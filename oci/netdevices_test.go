package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

func netDevices(m map[string]specs.LinuxNetDevice) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{newNS("mount"), newNS("network")}
		s.Linux.NetDevices = m
	}
}

func TestNetDevices(t *testing.T) {
	p := translate(t, netDevices(map[string]specs.LinuxNetDevice{"eth2": {}, "eth1": {Name: "net0"}, "a": {Name: "x%d"}, "b": {Name: "x%d"}}))
	assert.Equal(t, []NetDevice{{"a", "x%d"}, {"b", "x%d"}, {"eth1", "net0"}, {"eth2", "eth2"}}, p.NetDevices)
}

func TestNetDevicesThatAreRefused(t *testing.T) {
	one := func(host, name string) func(*specs.Spec) {
		return netDevices(map[string]specs.LinuxNetDevice{host: {Name: name}})
	}
	testRefused(t, []refusedCase{
		{"slash", one("a/b", ""), `linux.netDevices["a/b"]: is not the name of a network interface`, nil},
		{"up", one("..", ""), `linux.netDevices[".."]: is not the name of a network interface`, nil},
		{"empty", one("", "x"), `linux.netDevices[""]: is not the name of a network interface`, nil},
		{"newline", one("e", "a\nb"), `linux.netDevices["e"].name: "a\nb" is not the name of a network interface`, nil},
		{"too long", one("e", "0123456789abcdef"), `linux.netDevices["e"].name: "0123456789abcdef" is not the name of a network interface`, nil},
		{"two templates", one("e", "a%d%d"), `linux.netDevices["e"].name: "a%d%d" is not the name of a network interface`, nil},
		{"another template", one("e", "a%s"), `linux.netDevices["e"].name: "a%s" is not the name of a network interface`, nil},
		{
			"twice", netDevices(map[string]specs.LinuxNetDevice{"a": {Name: "x"}, "x": {}}),
			`linux.netDevices["x"].name: "x" is there twice`, nil,
		},
		{
			"host network", func(s *specs.Spec) {
				s.Linux.Namespaces = []specs.LinuxNamespace{newNS("mount")}
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {}}
			},
			`linux.netDevices: needs a "network" namespace`, nil,
		},
	})
}
