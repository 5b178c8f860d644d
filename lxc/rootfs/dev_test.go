package rootfs

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

func TestDevicesHaveExactModesAndOwners(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	c := startContainer(t, allNew)
	p := planOf(t.TempDir(), procMount(), devMount())
	p.Devices = append(p.Devices,
		oci.Device{Path: "/dev/fuse", Type: 'c', Major: 10, Minor: 229, Mode: 0o666, UID: 7, GID: 8},
		oci.Device{Path: "/dev/mapper/disk", Type: 'b', Major: 7, Minor: 0x12345, Mode: 0o640, GID: 6},
		oci.Device{Path: "/dev/pipe", Type: 'p', Mode: 0o602, UID: 9},
		oci.Device{Path: "/dev/unbuffered", Type: 'u', Major: 1, Minor: 3, Mode: 0o600},
		oci.Device{Path: "/opt/node", Type: 'c', Major: 1, Minor: 5, Mode: 0o444},
		oci.Device{Path: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o600}, // once more
	)
	build(t, c, p)
	for path, want := range map[string]string{
		"/dev/fuse":        "20666 7:8 10:229 fuse",
		"/dev/mapper":      "40755 0:0 mapper",
		"/dev/mapper/disk": "60640 0:6 7:74565 disk",
		"/dev/pipe":        "10602 9:0 pipe",
		"/dev/unbuffered":  "20600 0:0 1:3 unbuffered",
		"/opt/node":        "20444 0:0 1:5 node",
		"/dev/zero":        "20600 0:0 1:5 zero",
		"/dev/null":        "20666 0:0 1:3 null",
	} {
		assert.Equal(t, want, c.stat(path))
	}
}

func TestKeepsWhatTheImageHasInDevButNotItsPtmx(t *testing.T) {
	c := startContainer(t, allNew)
	build(t, c, planOf(tree(t, "dev/null=image", "dev/ptmx=image", "dev/stdin->elsewhere"), procMount()))
	assert.Equal(t, "image", c.read("/dev/null"))
	assert.Equal(t, "120777 0:0 ptmx -> pts/ptmx", c.stat("/dev/ptmx"))
	assert.Equal(t, "120777 0:0 stdin -> elsewhere", c.stat("/dev/stdin"))
	assert.Equal(t, "20666 0:0 1:5 zero", c.stat("/dev/zero"))
}

func TestLeavesABoundDevAlone(t *testing.T) {
	dev := tree(t, "file=host")
	before := snapshot(t, dev)
	c := startContainer(t, allNew)
	p := planOf(t.TempDir(), procMount(), bindMount(dev, "/dev"))
	p.Devices, p.BoundDev = nil, true
	build(t, c, p)
	assert.Equal(t, []string{"100644 0:0 file"}, c.list("/dev"))
	assert.Equal(t, before, snapshot(t, dev))
}

func TestSaysWhichDeviceFails(t *testing.T) {
	c := startContainer(t, allNew)
	p := planOf(tree(t, "file=x"), procMount())
	p.Devices = append(p.Devices, oci.Device{Path: "/file/node", Type: 'c', Major: 1, Minor: 5})
	_, err := Build(context.Background(), c.Target, p, nil)
	require.ErrorIs(t, err, unix.ENOTDIR)
	require.ErrorContains(t, err, `linux.devices: "/file/node": `)
}
