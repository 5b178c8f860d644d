package userns

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/oci"
)

const sourceDir = "../../cmd/nexcage-init"

// joiner builds the helper, before the reaper runs, which would take gcc's
// exit status.
func joiner(t *testing.T) *helper.Joiner {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nexcage-init")
	sources, err := filepath.Glob(sourceDir + "/*.c")
	require.NoError(t, err)
	args := append([]string{"-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-o", path}, sources...)
	out, err := exec.Command("gcc", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	go child.Reap(t.Context())
	j, err := helper.NewJoiner(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, j.Close()) })
	return j
}

func TestNamespaceHasItsMappingForAsLongAsItIsOpen(t *testing.T) {
	j := joiner(t)
	want := oci.IDMap{
		UIDs: []specs.LinuxIDMapping{{HostID: 100000, Size: 10}, {ContainerID: 1000, HostID: 1000, Size: 1}},
		GIDs: []specs.LinuxIDMapping{{HostID: 200000, Size: 20}},
	}
	ns, err := New(t.Context(), j, want)
	require.NoError(t, err)
	defer ns.Close()
	path := "/proc/self/fd/" + strconv.Itoa(int(ns.Fd())) // no process is in it
	got, err := Map(t.Context(), j, path)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	_, err = Map(t.Context(), j, "/proc/self/ns/user")
	require.ErrorContains(t, err, "is the runtime's own user namespace")
	_, err = Map(t.Context(), j, "/proc/self/ns/net")
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = New(t.Context(), j, oci.IDMap{UIDs: []specs.LinuxIDMapping{{HostID: 1, Size: 1}, {HostID: 5, Size: 1}}})
	require.ErrorIs(t, err, unix.EINVAL, "overlap")
}
