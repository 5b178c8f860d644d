package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	devDir     = "/dev"
	ptmxDevice = "/dev/ptmx"

	defaultDeviceMode = 0o666
	permissionBits    = 0o7777

	// Device numbers of the kernel have 12 and 20 bits (linux/kdev_t.h).
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// defaultDevices are the nodes that every container has ("Default Devices" in
// config-linux.md). /dev/console and /dev/ptmx are no nodes, but come with the
// terminal and with devpts.
var defaultDevices = []Device{
	{Path: "/dev/null", Type: 'c', Major: 1, Minor: 3, Mode: defaultDeviceMode},
	{Path: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: defaultDeviceMode},
	{Path: "/dev/full", Type: 'c', Major: 1, Minor: 7, Mode: defaultDeviceMode},
	{Path: "/dev/random", Type: 'c', Major: 1, Minor: 8, Mode: defaultDeviceMode},
	{Path: "/dev/urandom", Type: 'c', Major: 1, Minor: 9, Mode: defaultDeviceMode},
	{Path: "/dev/tty", Type: 'c', Major: 5, Minor: 0, Mode: defaultDeviceMode},
}

// translateDevices adds the nodes of the spec to the default ones, which they
// replace if they have the same path. It needs the mounts: below a /dev that
// is bound no node is made, since it is not the container's.
func translateDevices(in input, p *Plan) error {
	var own []Device
	for i, d := range in.linux.Devices {
		node, err := translateDevice(at("linux.devices", i), d)
		if err != nil {
			return err
		}
		if node.Path == ptmxDevice {
			continue // a link to pts/ptmx, as the runtime-spec has it
		}
		if n := findDevice(own, node.Path); n >= 0 {
			if !sameDevice(own[n], node) {
				return invalid(at("linux.devices", i)+".path", d.Path, "is there before, as another device")
			}
			continue
		}
		own = append(own, node)
	}
	for _, d := range defaultDevices {
		if findDevice(own, d.Path) < 0 {
			p.Devices = append(p.Devices, d)
		}
	}
	p.Devices = append(p.Devices, own...)
	if p.BoundDev {
		p.Devices = slices.DeleteFunc(p.Devices, func(d Device) bool { return strings.HasPrefix(d.Path, devDir+"/") })
	}
	return nil
}

func findDevice(list []Device, path string) int {
	return slices.IndexFunc(list, func(d Device) bool { return d.Path == path })
}

func sameDevice(a, b Device) bool {
	return a.Type == b.Type && a.Major == b.Major && a.Minor == b.Minor
}

func translateDevice(path string, d specs.LinuxDevice) (Device, error) {
	node := Device{Path: filepath.Clean(d.Path), Major: d.Major, Minor: d.Minor, Mode: defaultDeviceMode}
	switch d.Type {
	case "c", "u":
		node.Type = 'c'
	case "b", "p":
		node.Type = rune(d.Type[0])
	default:
		return node, notOneOf(path+".type", d.Type, []string{"c", "b", "u", "p"})
	}
	if !filepath.IsAbs(d.Path) || node.Path == "/" {
		return node, invalid(path+".path", d.Path, "is not an absolute path of a device")
	}
	if err := noNUL(path+".path", d.Path); err != nil {
		return node, err
	}
	if node.Type == 'p' {
		node.Major, node.Minor = 0, 0
	} else if err := checkDeviceNumbers(path, d.Major, d.Minor); err != nil {
		return node, err
	}
	for _, id := range []struct {
		name  string
		value *uint32
	}{{".uid", d.UID}, {".gid", d.GID}} {
		if id.value != nil && *id.value == noID {
			return node, invalid(path+id.name, *id.value, "is not an id")
		}
	}
	return node.owned(d.FileMode, d.UID, d.GID), nil
}

// owned sets what the spec may leave out. Type bits of a mode, which some
// clients write, are not looked at.
func (d Device) owned(mode *os.FileMode, uid, gid *uint32) Device {
	if mode != nil {
		d.Mode = uint32(*mode) & permissionBits
	}
	if uid != nil {
		d.UID = *uid
	}
	if gid != nil {
		d.GID = *gid
	}
	return d
}

func checkDeviceNumbers(path string, major, minor int64) error {
	if major < 0 || major > maxMajor {
		return invalid(path+".major", major, "is not between 0 and %d", maxMajor)
	}
	if minor < 0 || minor > maxMinor {
		return invalid(path+".minor", minor, "is not between 0 and %d", maxMinor)
	}
	return nil
}
