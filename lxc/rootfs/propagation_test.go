package rootfs

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sharedVolume is a directory on the host on which mounts propagate.
func sharedVolume(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	mountHere(t, dir, 0)
	require.NoError(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	for _, sub := range []string{"before", "host", "container"} {
		require.NoError(t, os.Mkdir(dir+"/"+sub, 0o755))
	}
	mountHere(t, dir+"/before", 0)
	return dir
}

func TestBindMountsPropagateAsAsked(t *testing.T) {
	const rec = unix.MS_REC
	for name, test := range map[string]struct {
		root     uint64 // linux.rootfsPropagation
		volume   []uint64
		fromHost bool // a later mount of the host appears in the container
		toHost   bool // and one of the container on the host
		shared   bool // within the container
	}{
		"nothing said is rprivate":         {},
		"rprivate":                         {volume: []uint64{unix.MS_PRIVATE | rec}},
		"private":                          {volume: []uint64{unix.MS_PRIVATE}},
		"rslave":                           {volume: []uint64{unix.MS_SLAVE | rec}, fromHost: true},
		"rshared, but not the root":        {volume: []uint64{unix.MS_SHARED | rec}, fromHost: true, shared: true},
		"rshared":                          {root: unix.MS_SHARED | rec, volume: []uint64{unix.MS_SHARED | rec}, fromHost: true, toHost: true, shared: true},
		"shared root, rprivate":            {root: unix.MS_SHARED | rec, volume: []uint64{unix.MS_PRIVATE | rec}},
		"shared root, nothing said":        {root: unix.MS_SHARED | rec},
		"slave root, rslave":               {root: unix.MS_SLAVE | rec, volume: []uint64{unix.MS_SLAVE | rec}, fromHost: true},
		"slave and shared, in this order":  {volume: []uint64{unix.MS_SLAVE, unix.MS_SHARED}, fromHost: true, shared: true},
		"private at last":                  {volume: []uint64{unix.MS_SHARED | rec, unix.MS_PRIVATE | rec}},
		"a private root keeps volumes off": {root: unix.MS_PRIVATE, volume: []uint64{unix.MS_SLAVE | rec}, fromHost: true},
	} {
		t.Run(name, func(t *testing.T) {
			volume := sharedVolume(t)
			c := startContainer(t, allNew)
			p := planOf(t.TempDir(), procMount(), bindMount(volume, "/vol", test.volume...))
			p.Root.Propagation = test.root
			build(t, c, p)
			assert.Equal(t, test.shared, strings.Contains(c.mount("/vol"), "shared:"), c.mount("/vol"))
			assert.NotEmpty(t, c.mount("/vol/before"))

			mountHere(t, volume+"/host", 0)
			assert.Equal(t, test.fromHost, c.mount("/vol/host") != "")

			require.Empty(t, c.call(request{Op: "mount", Path: "/vol/container"}).Err)
			toHost := strings.Contains(hostMounts(t), " "+volume+"/container ")
			assert.Equal(t, test.toHost, toHost)
			require.Empty(t, c.call(request{Op: "umount", Path: "/vol/container"}).Err)
			assert.NotContains(t, hostMounts(t), volume+"/container")
		})
	}
}

func TestTheRootPropagatesAsAsked(t *testing.T) {
	for name, test := range map[string]struct {
		propagation      uint64
		fromHost, shared bool
	}{
		"nothing said": {},
		"private":      {propagation: unix.MS_PRIVATE},
		"rslave":       {propagation: unix.MS_SLAVE | unix.MS_REC, fromHost: true},
		"slave":        {propagation: unix.MS_SLAVE, fromHost: true},
		"shared":       {propagation: unix.MS_SHARED, fromHost: true, shared: true},
		"rshared":      {propagation: unix.MS_SHARED | unix.MS_REC, fromHost: true, shared: true},
		"unbindable":   {propagation: unix.MS_UNBINDABLE},
	} {
		t.Run(name, func(t *testing.T) {
			image := sharedVolume(t)
			before := hostMounts(t)
			c := startContainer(t, allNew)
			p := defaultPlan(image)
			p.Root.Propagation = test.propagation
			build(t, c, p)
			assert.Equal(t, before, hostMounts(t), "the container's mounts stay inside")
			assert.Equal(t, test.shared, strings.Contains(c.mount("/"), "shared:"), c.mount("/"))
			assert.Equal(t, test.propagation == unix.MS_UNBINDABLE, strings.Contains(c.mount("/"), "unbindable"))

			mountHere(t, image+"/host", 0)
			assert.Equal(t, test.fromHost, c.mount("/host") != "")
			require.Empty(t, c.call(request{Op: "mount", Path: "/container"}).Err)
			assert.NotContains(t, hostMounts(t), image+"/container")
		})
	}
}
