package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/image"
)

// TestPackage does with the Debian package what the administrator of a node
// does, beside the distribution's containerd as systemd runs that.
func TestPackage(t *testing.T) {
	if !harness.WholeGuest() {
		t.Skip("the package is installed in a guest that is a node (make test-vm)")
	}
	w := proxmox(t)
	noGuestLeft(t)
	linkTools(t, w.Node.Sbin)
	deb := packageFile(t)
	t.Cleanup(func() { run(t, "dpkg", "--purge", "nexcage") })
	run(t, "dpkg", "--install", deb)
	startContainerd(t)

	out, code := runOnce(t, "package-exits", "sh", "-c", "echo out; exit 7")
	assert.Equal(t, "out\n", out)
	assert.Equal(t, 7, code)
	st := runsInSystem(t, "package-ct")
	assert.Equal(t, recorded{Backend: "lxc", Host: "pve", VMID: st.VMID}, st)
	assert.Contains(t, guests(t), st.VMID)

	assert.Equal(t, "enabled", unitProperty(t, "nexcage-gc.timer", "UnitFileState"))
	assert.Equal(t, "active", unitProperty(t, "nexcage-gc.timer", "ActiveState"))
	run(t, "systemctl", "start", "nexcage-gc.service")
	assert.Equal(t, "success", unitProperty(t, "nexcage-gc.service", "Result"))
	assert.Equal(t, "yes", unitProperty(t, "nexcage-gc.service", "ConditionResult"))

	upgradeKeepsSettings(t, deb)
	assert.Equal(t, "here\n", run(t, "ctr", "task", "exec", "--exec-id", "e", "package-ct", "echo", "here"))
	endInSystem(t, "package-ct")
	assert.Empty(t, guests(t))
	removeLeavesNothing(t)
}

// upgradeKeepsSettings shows that a configuration and a timer that the
// administrator changed stay so.
func upgradeKeepsSettings(t *testing.T, deb string) {
	const settings = "[routing]\ndefault_backend = \"crun\"\n"
	require.NoError(t, os.WriteFile("/etc/nexcage/config.toml", []byte(settings), 0o644))
	run(t, "systemctl", "disable", "--now", "nexcage-gc.timer")
	run(t, "dpkg", "--install", deb)
	assert.Equal(t, settings, content(t, "/etc/nexcage/config.toml"))
	assert.Equal(t, "disabled", unitProperty(t, "nexcage-gc.timer", "UnitFileState"))
	assert.Equal(t, "crun", runsInSystem(t, "package-crun").Backend)
	endInSystem(t, "package-crun")
}

func removeLeavesNothing(t *testing.T) {
	files := strings.Fields(run(t, "dpkg", "--listfiles", "nexcage"))
	require.Contains(t, files, "/usr/bin/containerd-shim-nexcage-v2")
	run(t, "dpkg", "--remove", "nexcage")
	assert.NoFileExists(t, "/usr/bin/containerd-shim-nexcage-v2")
	assert.FileExists(t, "/etc/nexcage/config.toml", "until it is purged")
	run(t, "dpkg", "--purge", "nexcage")
	for _, f := range files {
		if strings.Contains(f, "nexcage") {
			assert.NoFileExists(t, f)
			assert.NoDirExists(t, f)
		}
	}
	links, err := filepath.Glob("/etc/systemd/system/*/nexcage-gc*")
	require.NoError(t, err)
	assert.Empty(t, links)
}

// linkTools puts the node's tools to where those of every node are found.
func linkTools(t *testing.T, from string) {
	t.Helper()
	for _, tool := range []string{"pct", "pvesh", "pveversion"} {
		link := filepath.Join("/usr/local/sbin", tool)
		require.NoError(t, os.Symlink(filepath.Join(from, tool), link))
		t.Cleanup(func() { assert.NoError(t, os.Remove(link)) })
	}
}

func packageFile(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(harness.Bin(), "nexcage_*.deb"))
	require.NoError(t, err)
	require.Len(t, found, 1, "packages, which `make deb` makes")
	return found[0]
}

// startContainerd starts the distribution's, with the default image.
func startContainerd(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { run(t, "systemctl", "stop", "containerd.service") })
	run(t, "systemctl", "start", "containerd.service")
	images, err := image.All(harness.Outside(), harness.Observer())
	require.NoError(t, err)
	for _, i := range images {
		if i.Name != harness.Image {
			continue
		}
		archive, err := i.Archive()
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "image.tar")
		require.NoError(t, os.WriteFile(path, archive, 0o600))
		run(t, "ctr", "images", "import", path)
	}
}

func runOnce(t *testing.T, id string, args ...string) (string, int) {
	t.Helper()
	argv := append([]string{"run", "--rm", "--runtime", harness.LXC().Type, harness.Image, id}, args...)
	return output(t, exec.CommandContext(t.Context(), "ctr", argv...))
}

// recorded is what a container's record says of where it is.
type recorded struct {
	Backend, Host string
	VMID          int
}

// runsInSystem starts a container that stays, and reads its record.
func runsInSystem(t *testing.T, id string) (st recorded) {
	t.Helper()
	t.Cleanup(func() { run(t, "ctr", "container", "delete", id) })
	run(t, append([]string{"ctr", "run", "--detach", "--runtime", harness.LXC().Type, harness.Image, id}, forever...)...)
	require.NoError(t, json.Unmarshal([]byte(content(t, filepath.Join("/run/nexcage/default", id, "state.json"))), &st))
	return st
}

// endInSystem kills the container's task, and deletes it.
func endInSystem(t *testing.T, id string) {
	t.Helper()
	run(t, "ctr", "task", "delete", "--force", id)
}
