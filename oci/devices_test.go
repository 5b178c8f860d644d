package oci

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

func devices(list ...specs.LinuxDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Devices = list }
}

func device(path, kind string, major, minor int64) specs.LinuxDevice {
	return specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor}
}

func TestDeviceNodes(t *testing.T) {
	fuse := Device{Path: "/dev/fuse", Type: 'c', Major: 10, Minor: 229, Mode: 0o666}
	for _, c := range []struct {
		name   string
		device specs.LinuxDevice
		want   Device
	}{
		{"char", device("/dev/fuse", "c", 10, 229), fuse},
		{"unbuffered is char", device("/dev/fuse", "u", 10, 229), fuse},
		{"block", device("/dev//sda", "b", 8, 0), Device{Path: "/dev/sda", Type: 'b', Major: 8, Mode: 0o666}},
		{"fifo has no numbers", device("/run/fifo", "p", -1, -1), Device{Path: "/run/fifo", Type: 'p', Mode: 0o666}},
		{
			"owner and mode",
			specs.LinuxDevice{Path: "/dev/x", Type: "c", FileMode: ptr(os.FileMode(0o20640)), UID: ptr(uint32(1)), GID: ptr(uint32(2))},
			Device{Path: "/dev/x", Type: 'c', Mode: 0o640, UID: 1, GID: 2},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := translate(t, devices(c.device)).Devices
			assert.Equal(t, append(append([]Device{}, defaultDevices...), c.want), got)
		})
	}
}

func TestDeviceNodesOfTheSpecReplaceDefaultOnes(t *testing.T) {
	p := translate(t, devices(
		device("/dev/null", "c", 1, 11), device("/dev/ptmx", "c", 5, 2),
		device("/dev/a", "c", 1, 2), device("/dev//a", "c", 1, 2),
	))
	assert.Equal(t, append(append([]Device{}, defaultDevices[1:]...),
		Device{Path: "/dev/null", Type: 'c', Major: 1, Minor: 11, Mode: 0o666},
		Device{Path: "/dev/a", Type: 'c', Major: 1, Minor: 2, Mode: 0o666},
	), p.Devices)
}

func TestNoNodesAreMadeInABoundDev(t *testing.T) {
	hostDev := mounts(specs.Mount{Destination: "/dev/", Source: "/dev", Options: []string{"rbind"}})
	p := translate(t, hostDev, devices(device("/dev/fuse", "c", 10, 229), device("/devices", "c", 1, 1)))
	assert.True(t, p.BoundDev)
	assert.Equal(t, []Device{{Path: "/devices", Type: 'c', Major: 1, Minor: 1, Mode: 0o666}}, p.Devices)

	assert.False(t, translate(t, mounts(specs.Mount{Destination: "/dev/shm", Source: "/s", Options: []string{"bind"}})).BoundDev)
}

func TestDevicesThatAreRefused(t *testing.T) {
	testRefused(t, []refusedCase{
		{"type", devices(device("/dev/x", "a", 1, 1)), `linux.devices[0].type: "a" is not one of c, b, u, p`, nil},
		{"relative", devices(device("dev/x", "c", 1, 1)), `linux.devices[0].path: "dev/x" is not an absolute path of a device`, nil},
		{"the root", devices(device("/..", "c", 1, 1)), `linux.devices[0].path: "/.." is not an absolute path of a device`, nil},
		{"NUL", devices(device("/a\x00", "c", 1, 1)), `linux.devices[0].path: "/a\x00" has a NUL byte`, nil},
		{"major", devices(device("/a", "c", 4096, 1)), `linux.devices[0].major: 4096 is not between 0 and 4095`, nil},
		{
			"no owner", func(s *specs.Spec) {
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/a", Type: "p", UID: ptr(uint32(noID))}}
			},
			"linux.devices[0].uid: 4294967295 is not an id", nil,
		},
		{"minor", devices(device("/a", "b", 1, -1)), `linux.devices[0].minor: -1 is not between 0 and 1048575`, nil},
		{"two at one path", devices(device("/a", "c", 1, 1), device("//a", "c", 1, 2)), `linux.devices[1].path: "//a" is there before, as another device`, nil},
	})
}

func rules(list ...specs.LinuxDeviceCgroup) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{Devices: list} }
}

func TestDeviceRules(t *testing.T) {
	denyAll := specs.LinuxDeviceCgroup{Type: "a", Access: "rwm"}
	defaults := translate(t).Resources.Devices
	assert.Equal(t, denyAll, defaults[0], "nothing is allowed if the spec says nothing")
	assert.Len(t, defaults, 1+len(defaultRules))

	own := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}
	got := translate(t, rules(own)).Resources.Devices
	assert.Equal(t, append([]specs.LinuxDeviceCgroup{denyAll, own}, defaults[1:]...), got)

	all := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	got = translate(t, rules(all)).Resources.Devices
	assert.Equal(t, append([]specs.LinuxDeviceCgroup{all}, defaults[1:]...), got)
}

func TestDeviceOfTheSpecBringsItsOwnRule(t *testing.T) {
	p := translate(t, devices(device("/dev/null", "c", 1, 11)))
	assert.Len(t, p.Resources.Devices, len(defaultRules))
	for _, r := range p.Resources.Devices {
		assert.False(t, r.Major != nil && *r.Major == 1 && r.Minor != nil && *r.Minor == 3, "null of the host")
	}
}

func TestRulesOfTheSpecAreNotChanged(t *testing.T) {
	list := make([]specs.LinuxDeviceCgroup, 1, 100)
	list[0] = specs.LinuxDeviceCgroup{Access: "rwm"}
	translate(t, rules(list...))
	assert.Equal(t, specs.LinuxDeviceCgroup{}, list[:2][1])
}

func TestDeviceRulesThatAreRefused(t *testing.T) {
	rule := func(kind, access string, major, minor *int64) func(*specs.Spec) {
		return rules(specs.LinuxDeviceCgroup{Type: kind, Access: access, Major: major, Minor: minor})
	}
	translate(t, rule("c", "m", ptr(int64(-1)), nil))
	testRefused(t, []refusedCase{
		{"type", rule("p", "r", nil, nil), `linux.resources.devices[0].type: "p" is not one of a, b, c`, nil},
		{"no access", rule("c", "", nil, nil), `linux.resources.devices[0].access: "" is not made of r, w and m`, nil},
		{"access", rule("c", "rx", nil, nil), `linux.resources.devices[0].access: "rx" is not made of r, w and m`, nil},
		{"some access to all", rule("", "rm", nil, nil), `linux.resources.devices[0].access: "rm" is not "rwm": a rule for all devices is about every access`, nil},
		{"number of all", rule("a", "rwm", ptr(int64(1)), nil), `linux.resources.devices[0].major: 1 can not be in a rule for all devices: type must be "b" or "c"`, nil},
		{"major", rule("c", "r", ptr(int64(4096)), nil), `linux.resources.devices[0].major: 4096 is not between 0 and 4095`, nil},
		{"minor", rule("c", "r", nil, ptr(int64(-2))), `linux.resources.devices[0].minor: -2 is not between 0 and 1048575`, nil},
	})
}
