package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// gc removes the volume of a container that containerd has removed, and nothing
// that is an operator's: clones of our template and CT, and backups that were
// restored, under another VMID or under that of a CT that is gone.
func TestGCLeavesCopiesOfVolumes(t *testing.T) {
	w, template := volumes(t)
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.Volume(linkedStorage), containerID("copied"), harness.Image, oci.WithProcessArgs("sh", "-c", "echo data >/data"))
	require.NoError(t, err)
	runIn(t, c)
	ours, err := strconv.Atoi(onlyGuest(t, "nexcage", "!nexcage-template"))
	require.NoError(t, err)
	conf := confText(t, host.ConfPath(ours))

	id := strconv.Itoa
	linked, copied, restored := ours+100, ours+101, ours+102
	tool(t, w, "pct", "clone", id(template), id(linked))
	destroyCT(t, w, linked)
	tool(t, w, "pct", "clone", id(ours), id(copied))
	destroyCT(t, w, copied)
	tool(t, w, "pct", "restore", id(restored), backup(t, conf), "--rootfs", "local-zfs:1", "--unprivileged", "0")
	destroyCT(t, w, restored)
	before := guests(t)
	gcVerb(t, w, "-templates")
	assert.Equal(t, before, guests(t), "the container is there, and the template has clones")

	require.NoError(t, c.Remove(ctx))
	tool(t, w, "pct", "set", id(ours), "--lock", "backup")
	forget(t, w)
	cmd := exec.Command(filepath.Join(harness.Bin(), "containerd-shim-nexcage-v2"), "gc")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "CT is locked (backup): CT "+id(ours))
	assert.Equal(t, before, guests(t), "a backup reads it")
	tool(t, w, "pct", "unlock", id(ours))
	assert.Contains(t, gcVerb(t, w, "-templates"), "removed CT "+id(ours)+"\n")
	delete(before, ours)
	assert.Equal(t, before, guests(t), "the operator's clone keeps the template")

	tool(t, w, "pct", "restore", id(ours), backup(t, conf), "--rootfs", "local-zfs:1", "--unprivileged", "0")
	destroyCT(t, w, ours)
	gcVerb(t, w)
	assert.Contains(t, guests(t), ours, "a backup of what is gone is the operator's")
}

// A protected CT outlives its container.
func TestProtectedVolume(t *testing.T) {
	w, _ := volumes(t)
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.Volume(linkedStorage), containerID("protected"), harness.Image, oci.WithProcessArgs("true"))
	require.NoError(t, err)
	runIn(t, c)
	vmid := onlyGuest(t, "nexcage", "!nexcage-template")
	tool(t, w, "pct", "set", vmid, "--protection", "1")
	require.NoError(t, c.Remove(ctx))
	forget(t, w)
	assert.Empty(t, gcVerb(t, w))
	tool(t, w, "pct", "set", vmid, "--protection", "0")
	assert.Equal(t, "removed CT "+vmid+"\n", gcVerb(t, w))
}

// Templates are listed and counted, and go when nobody has used them for long.
func TestTemplatesAreListedAndAge(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	forget(t, w)
	template := templates(t, w, linkedStorage)[0]
	c, err := w.NewContainer(within(t, time.Minute), harness.Volume(linkedStorage), containerID("uses"), harness.Image, oci.WithProcessArgs("true"))
	require.NoError(t, err)
	runIn(t, c)
	list := func() string {
		out, err := exec.Command(filepath.Join(harness.Bin(), "containerd-shim-nexcage-v2"), "templates").CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	line := func(clones int) string {
		return fmt.Sprintf(`(?m)^%d +local-zfs +1G +20\S+ +20\S+ +%d +`, template, clones)
	}
	assert.Regexp(t, line(1), list())
	assert.Regexp(t, `(?m)^\d+ templates$`, list())
	old := time.Now().Add(-31 * 24 * time.Hour)
	age := func() {
		paths, err := filepath.Glob("/var/lib/nexcage/templates/*-local-zfs-1.json")
		require.NoError(t, err)
		require.Len(t, paths, 1)
		require.NoError(t, os.Chtimes(paths[0], old, old))
	}
	age()
	assert.Empty(t, gcVerb(t, w), "it has a clone")
	require.NoError(t, c.Remove(within(t, time.Minute)))
	forget(t, w)
	assert.Regexp(t, fmt.Sprintf(`^removed CT \d+\nremoved CT %d\n$`, template), gcVerb(t, w))
	assert.NotRegexp(t, line(0), list())
	templates(t, w, linkedStorage)
	assert.Empty(t, gcVerb(t, w), "a new one is not old")
}

// A storage that has no templates has copies of a CT that is never started.
func TestStorageWithoutTemplates(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	noTemplate(t, w)
	faulty(t, w, host.Fault{Command: "pct template", Stderr: "Template feature is not available for 'lvm:vm-900000-disk-0'\n"})
	before, err := w.Node.Calls()
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, wholeLife(within(t, time.Minute), w, harness.Volume(linkedStorage), containerID("no-templates")))
	}
	calls, err := w.Node.Calls()
	require.NoError(t, err)
	var verbs []string
	for _, c := range calls[len(before):] {
		if c.Argv[1] == "clone" {
			assert.Contains(t, strings.Join(c.Argv, " "), "--full 1")
		}
		if c.Argv[1] != "destroy" {
			verbs = append(verbs, c.Argv[1])
		}
	}
	assert.Equal(t, []string{"restore", "template", "clone", "start", "clone", "start"}, verbs)
}

// A CT that an operator has removed is one that its container begins anew.
func TestVolumeThatAnOperatorRemoved(t *testing.T) {
	w, _ := volumes(t)
	c := onVolume(t, w, "removed", "sh", "-c", "cat /data 2>/dev/null; echo data >/data")
	assert.Empty(t, runIn(t, c))
	assert.Equal(t, "data\n", runIn(t, c))
	tool(t, w, "pct", "destroy", onlyGuest(t, "nexcage", "!nexcage-template"))
	assert.Empty(t, runIn(t, c))
}

// A backup that is restored over the CT of a container that is still there is
// what the container goes on with.
func TestBackupRestoredOverAVolume(t *testing.T) {
	w, _ := volumes(t)
	ctx := within(t, time.Minute)
	c := onVolume(t, w, "restored", "sh", "-c", "cat /lives 2>/dev/null; echo life >>/lives")
	runIn(t, c)
	vmid := onlyGuest(t, "nexcage", "!nexcage-template")
	files := "/var/lib/vz/rpool/data/subvol-" + vmid + "-disk-0"
	archive := backup(t, confText(t, host.ConfPath(mustAtoi(t, vmid))))
	out, err := exec.CommandContext(ctx, "tar", "-C", files, "-rf", archive, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "life\n", runIn(t, c))
	assert.Equal(t, "life\nlife\n", runIn(t, c))
	tool(t, w, "pct", "restore", vmid, archive, "--force", "1", "--rootfs", "local-zfs:1", "--unprivileged", "0")
	assert.Equal(t, "life\n", runIn(t, c), "as at the time of the backup")
	assert.Equal(t, vmid, onlyGuest(t, "nexcage", "!nexcage-template"))
}

// What a container began with it stays with.
func TestTheKindOfRootStays(t *testing.T) {
	w, _ := volumes(t)
	ctx := within(t, time.Minute)
	args := oci.WithProcessArgs("sh", "-c", "cat /data 2>/dev/null; echo data >/data")
	c, err := w.NewContainer(ctx, harness.LXC(), containerID("stays"), harness.Image, args)
	require.NoError(t, err)
	destroyed(t, c)
	assert.Empty(t, runIn(t, c), "in the snapshot")
	const path = "/etc/nexcage/config.toml"
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("[lxc.pve]\nrootfs = 'volume'\nstorage = 'local-zfs'\nsize = 1\n"), 0o600))
	t.Cleanup(func() { assert.NoError(t, os.Remove(path)) })
	rt := harness.LXC()
	rt.Options = nil
	id := containerID("by-file")
	d, err := w.NewContainer(ctx, rt, id, harness.Image, args)
	require.NoError(t, err)
	destroyed(t, d)
	assert.Empty(t, runIn(t, d), "in a volume")
	require.NoError(t, os.WriteFile(path, []byte("[lxc.pve]\nrootfs = 'snapshot'\n"), 0o600))
	assert.Equal(t, "data\n", runIn(t, d), "which is still there")
}

// An annotation asks for a volume, if it is allowed; it is refused for a container
// whose snapshot has something that would not be in it.
func TestVolumeByAnnotation(t *testing.T) {
	w, _ := volumes(t)
	ctx := within(t, time.Minute)
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc]\nallowed_annotations = ['io.nexcage.rootfs', 'io.nexcage.pve.storage', 'io.nexcage.pve.size']\n")
	create := func(t *testing.T, annotations map[string]string) error {
		c, err := w.NewContainer(ctx, rt, containerID("annotated"), harness.Image, oci.WithProcessArgs("true"), oci.WithAnnotations(annotations))
		require.NoError(t, err)
		destroyed(t, c)
		return c.Create(ctx, &harness.Stdio{Null: true})
	}
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"kind":       {map[string]string{"io.nexcage.rootfs": "disk"}, `annotation io.nexcage.rootfs: "disk" is not one of "snapshot", "volume"`},
		"no storage": {map[string]string{"io.nexcage.rootfs": "volume"}, "names a storage"},
		"size":       {map[string]string{"io.nexcage.rootfs": "volume", "io.nexcage.pve.size": "many"}, "annotation io.nexcage.pve.size"},
		"unknown storage": {
			map[string]string{"io.nexcage.rootfs": "volume", "io.nexcage.pve.storage": "nosuch"}, "storage 'nosuch' does not exist",
		},
		"wrong storage": {
			map[string]string{"io.nexcage.rootfs": "volume", "io.nexcage.pve.storage": "isoonly"}, "does not support container directories",
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaveOnlyTemplates(t, w)
			assert.ErrorContains(t, create(t, tc.annotations), tc.want)
		})
	}
	t.Run("user namespace", func(t *testing.T) {
		leaveOnlyTemplates(t, w)
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		c, err := w.NewContainer(ctx, harness.Volume(linkedStorage), containerID("userns"), harness.Image, oci.WithUserNamespace(ids, ids))
		require.NoError(t, err)
		destroyed(t, c)
		assert.ErrorContains(t, c.Create(ctx, &harness.Stdio{Null: true}), "linux.namespaces: a user namespace is not supported with a volume")
	})
	t.Run("allowed", func(t *testing.T) {
		leaveOnlyTemplates(t, w)
		require.NoError(t, create(t, map[string]string{"io.nexcage.rootfs": "volume", "io.nexcage.pve.storage": "local-zfs", "io.nexcage.pve.size": "1"}))
		assert.Contains(t, confText(t, host.ConfPath(mustAtoi(t, onlyGuest(t, "nexcage", "!nexcage-template")))), "local-zfs:basevol-")
	})
}

func mustAtoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// knownOnVolumes hides the order that sort gives to directories with their links,
// which overlayfs does not count.
func knownOnVolumes(stdout string) string {
	lines := strings.Split(knownOnProxmox(stdout), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// What users of ctr see of a container with a volume is what they see with the
// runc shim, and its files are those of the image.
func TestCtrOnVolumes(t *testing.T) {
	w := proxmox(t)
	w.config = "[lxc.pve]\nrootfs = 'volume'\nstorage = 'local-zfs'\nsize = 1\n"
	t.Cleanup(func() { w.config = "" })
	templates(t, w, linkedStorage)
	leaveOnlyTemplates(t, w)
	t.Run("run", func(t *testing.T) { looksTheSame(t, w, knownOnVolumes) })
	t.Run("terminal", func(t *testing.T) { sameTerminal(t, w) })
	t.Run("task", func(t *testing.T) { sameTask(t, w) })
}

// Every file of the image is on the volume, as it is in the snapshot.
func TestVolumeHasTheImage(t *testing.T) {
	w, _ := volumes(t)
	list := oci.WithProcessArgs("sh", "-c", `find / -xdev | sort | xargs stat -c "%N %F %a %u %g %h %t:%T %s %Y"; find / -xdev -type f | sort | xargs sha256sum`)
	listing := func(rt harness.Runtime) string {
		c, err := w.NewContainer(within(t, time.Minute), rt, containerID("files"), harness.Image, list)
		require.NoError(t, err)
		destroyed(t, c)
		return ownFiles.ReplaceAllString(runIn(t, c), "$1")
	}
	want := listing(harness.LXC())
	require.Contains(t, want, "/bin/busybox regular file 755 0 0")
	assert.Equal(t, want, listing(harness.Volume(linkedStorage)))
}

// ownFiles are directories whose size and times are a file system's own, or
// which the runtime mounts on.
var ownFiles = regexp.MustCompile(`(?m)(directory \d+ \d+ \d+) .*$`)
