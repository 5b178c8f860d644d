package oci

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// NetDevice is one entry of linux.netDevices.
type NetDevice struct {
	Host string // its name on the host
	// Name in the container; one with %d is a template, of which the kernel
	// makes a name.
	Name string
}

func translateNetDevices(in input, p *Plan) error {
	const path = "linux.netDevices"
	if len(in.linux.NetDevices) > 0 && !p.has(specs.NetworkNamespace) {
		return invalid(path, nil, `needs a "network" namespace`)
	}
	var names []string
	for _, host := range sortedKeys(in.linux.NetDevices) {
		if !isInterface(host) {
			return invalid(key(path, host), nil, "is not the name of a network interface")
		}
		name := in.linux.NetDevices[host].Name
		if name == "" {
			name = host
		}
		template := strings.Contains(name, "%")
		switch {
		case !isInterface(name) || strings.Count(name, "%") != strings.Count(name, "%d") || strings.Count(name, "%") > 1:
			return invalid(key(path, host)+".name", name, "is not the name of a network interface")
		case !template && slices.Contains(names, name):
			return invalid(key(path, host)+".name", name, "is there twice")
		}
		names = append(names, name)
		p.NetDevices = append(p.NetDevices, NetDevice{Host: host, Name: name})
	}
	return nil
}
