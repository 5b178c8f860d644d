package pve

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// mapper is a node with that mode of newuidmap and newgidmap, and those ids of root's.
func mapper(t *testing.T, mode os.FileMode, subuid, subgid string) *Node {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"subuid": subuid, "subgid": subgid, "newuidmap": "", "newgidmap": ""} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	return &Node{SubIDs: dir, Path: []string{"/nonexistent", dir}}
}

func TestCheckIDs(t *testing.T) {
	const setuid = os.ModeSetuid | 0o755
	ids := func(mappings ...specs.LinuxIDMapping) oci.IDMap { return oci.IDMap{UIDs: mappings, GIDs: mappings} }
	wide := ids(specs.LinuxIDMapping{HostID: 200000, Size: 65536})
	for name, tc := range map[string]struct {
		node *Node
		ids  oci.IDMap
		want string // of the error
	}{
		"root's own":          {mapper(t, setuid, "root:200000:65536\n", "0:200000:65536\n"), wide, ""},
		"two lines that join": {mapper(t, setuid, "root:230000:65536\nsomeone:1:1\nroot:200000:30000\n", "root:100000:1000000\n"), wide, ""},
		"a gap":               {mapper(t, setuid, "root:230001:65536\nroot:200000:30000\n", "root:200000:65536\n"), wide, "linux.uidMappings[0]"},
		"only Proxmox's":      {mapper(t, setuid, "root:100000:65536\n", "root:100000:65536\n"), wide, "which lacks the host's ids 200000 to 265535: add the line root:200000:65536"},
		"no groups":           {mapper(t, setuid, "root:200000:65536\n", "someone:200000:65536\nroot:x:1\nroot\n"), wide, "linux.gidMappings[0]"},
		"the second":          {mapper(t, setuid, "root:0:10\n", "root:0:10\n"), ids(specs.LinuxIDMapping{HostID: 0, Size: 10}, specs.LinuxIDMapping{ContainerID: 10, HostID: 10, Size: 1}), "linux.uidMappings[1]"},
		"root itself":         {mapper(t, setuid, "", ""), ids(specs.LinuxIDMapping{HostID: 0, Size: 1}), ""},
		"the last id":         {mapper(t, setuid, "root:4294967294:9\n", "root:4294967294:9\n"), ids(specs.LinuxIDMapping{HostID: 4294967294, Size: 1}), ""},
		"tool without rights": {mapper(t, 0o755, "", ""), wide, ""}, // LXC writes the mapping by itself
		"no tool":             {&Node{SubIDs: "/nonexistent", Path: []string{t.TempDir()}}, wide, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.node.CheckIDs(tc.ids)
			if tc.want == "" {
				assert.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}
