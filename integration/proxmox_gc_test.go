package integration

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// collect removes what earlier containers left, as an operator or a timer does.
func collect(t *testing.T, w *place) string {
	t.Helper()
	cmd := exec.CommandContext(within(t, time.Minute), filepath.Join(harness.Bin(), "containerd-shim-nexcage-v2"), "gc")
	cmd.Env = w.Env()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// destroyCT removes a CT that is an operator's, after the test.
func destroyCT(t *testing.T, w *place, vmid int) {
	t.Cleanup(func() {
		out, err := exec.Command(filepath.Join(w.Node.Sbin, "pct"), "destroy", strconv.Itoa(vmid), "--force").CombinedOutput()
		assert.NoError(t, err, string(out))
	})
}

// backup is what vzdump makes of a CT, with conf as its configuration.
func backup(t *testing.T, conf string) string {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	require.NoError(t, out.WriteHeader(&tar.Header{Name: "./etc/vzdump/pct.conf", Mode: 0o644, Size: int64(len(conf))}))
	_, err := out.Write([]byte(conf))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	path := filepath.Join(t.TempDir(), "vzdump-lxc.tar")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

// gc removes the CT of a container that is gone, and nothing that is an
// operator's: foreign guests, a clone of a CT of ours, and backups of it that
// were restored, under another VMID or under its own. A container that lives
// keeps its CT.
func TestGCRemovesOnlyWhatIsOurs(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	ctx := within(t, time.Minute)
	living, err := w.NewContainer(ctx, harness.LXC(), containerID("living"), harness.Image, oci.WithProcessArgs(forever...))
	require.NoError(t, err)
	destroyed(t, living)
	require.NoError(t, living.Create(ctx, &harness.Stdio{Null: true}))
	_, err = living.Start(ctx, "")
	require.NoError(t, err)
	ours := vmidOf(t, w, living.ID)
	conf := confText(t, host.ConfPath(ours))

	// Ids beyond those that the next containers get.
	foreign(t, w, ours+100)
	machine := vm(t, ours+101)
	restored, clone := ours+102, ours+103
	saved := strings.Replace(conf, "rootfs: ", "rootfs: local-zfs:subvol-1-disk-0,size=1G\n#", 1)
	tool(t, w, "pct", "restore", strconv.Itoa(restored), backup(t, saved), "--rootfs", "local-zfs:1", "--unprivileged", "0")
	destroyCT(t, w, restored)
	tool(t, w, "pct", "snapshot", strconv.Itoa(restored), "s1")
	tool(t, w, "pct", "clone", strconv.Itoa(restored), strconv.Itoa(clone), "--snapname", "s1")
	destroyCT(t, w, clone)
	for _, vmid := range []int{restored, clone} {
		text := confText(t, host.ConfPath(vmid))
		require.Contains(t, text, "nexcage", "the tag was copied")
		require.Contains(t, text, "lxc.include: /run/nexcage/", "and the line")
	}

	before := guests(t)
	collect(t, w)
	assert.Equal(t, before, guests(t))
	assert.Equal(t, "memory: 2048\nname: a-vm\n", confText(t, machine))
	require.NoError(t, execEcho(ctx, living), "the container lives on")

	// Its CT stays behind, as a backup has locked it.
	tool(t, w, "pct", "set", strconv.Itoa(ours), "--lock", "backup")
	kill(t, ctx, living)
	_, err = living.Delete(ctx, "")
	require.NoError(t, err)
	require.Contains(t, guests(t), ours)
	tool(t, w, "pct", "unlock", strconv.Itoa(ours))
	collect(t, w)
	delete(before, ours)
	assert.Equal(t, before, guests(t))

	// A backup that takes the place of what it was made of.
	tool(t, w, "pct", "restore", strconv.Itoa(ours), backup(t, saved), "--rootfs", "local-zfs:1", "--unprivileged", "0")
	destroyCT(t, w, ours)
	collect(t, w)
	assert.Contains(t, guests(t), ours)
}
