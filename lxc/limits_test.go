package lxc

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// The rules that a container was created with are not written again, and others
// come with what every container may use.
func TestDeviceRulesOfAnUpdate(t *testing.T) {
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	spec := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny}}}}
	has := oci.DeviceRules(spec, spec.Linux.Resources.Devices)
	c := &Container{spec: spec, plan: &oci.Plan{Resources: &specs.LinuxResources{Devices: has}}}

	pids := &specs.LinuxPids{Limit: new(int64)}
	none := &specs.LinuxResources{Pids: pids}
	assert.Same(t, none, c.withDevices(none))

	same := c.withDevices(&specs.LinuxResources{Pids: pids, Devices: []specs.LinuxDeviceCgroup{deny}})
	assert.Equal(t, none, same)

	one := int64(1)
	zero := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &one, Minor: &one, Access: "r"}
	other := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny, zero}}
	update := c.withDevices(other)
	assert.Equal(t, append([]specs.LinuxDeviceCgroup{deny, zero}, has[1:]...), update.Devices)
	assert.Len(t, other.Devices, 2, "the request stays as it is")
}
