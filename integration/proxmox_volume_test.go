package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// Storages of the stand-in: one has linked clones, the other copies.
const (
	linkedStorage = "local-zfs"
	copyStorage   = "local"
)

// forget lets containerd remove the snapshots that nobody needs, and waits for it.
func forget(t *testing.T, w *place) {
	t.Helper()
	ctx := w.Context(context.Background())
	service := w.Client.LeasesService()
	l, err := service.Create(ctx, leases.WithRandomID())
	require.NoError(t, err)
	require.NoError(t, service.Delete(ctx, l, leases.SynchronousDelete))
}

// gcVerb is the shim's gc, with the session's configuration.
func gcVerb(t *testing.T, w *place, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(harness.Bin(), "containerd-shim-nexcage-v2"), append([]string{"gc"}, args...)...)
	cmd.Env = w.Env()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// leaveOnlyTemplates is leaveNothing after gc: Delete keeps the volumes.
func leaveOnlyTemplates(t *testing.T, w *place) {
	t.Helper()
	w.settle = func(t *testing.T) {
		forget(t, w)
		gcVerb(t, w)
	}
	t.Cleanup(func() { w.settle = nil })
	noGuestLeft(t)
	leaveNothing(t, w)
}

// templates returns the VMIDs of the templates that are there, and makes the
// one of the default image first if there is none.
func templates(t *testing.T, w *place, storage string) []int {
	t.Helper()
	found := madeTemplates(t, storage)
	if len(found) == 0 {
		require.NoError(t, wholeLife(within(t, time.Minute), w, harness.Volume(storage), containerID("first")))
		forget(t, w)
		gcVerb(t, w)
		found = madeTemplates(t, storage)
	}
	return found
}

// volumes is the node with a template of the default image, by its VMID: all
// that is there at the end.
func volumes(t *testing.T) (w *place, template int) {
	t.Helper()
	w = proxmox(t)
	logged(t, w)
	template = templates(t, w, linkedStorage)[0]
	leaveOnlyTemplates(t, w)
	return w, template
}

// onVolume makes a container whose root is a volume, until the test ends.
func onVolume(t *testing.T, w *place, name string, args ...string) *harness.Container {
	t.Helper()
	c, err := w.NewContainer(within(t, time.Minute), harness.Volume(linkedStorage), containerID(name), harness.Image, oci.WithProcessArgs(args...))
	require.NoError(t, err)
	destroyed(t, c)
	return c
}

// templateRecord is what is recorded of a template.
type templateRecord struct {
	VMID    int
	Storage string
	Made    bool
}

func madeTemplates(t *testing.T, storage string) (vmids []int) {
	t.Helper()
	paths, err := filepath.Glob("/var/lib/nexcage/templates/*.json")
	require.NoError(t, err)
	for _, path := range paths {
		var r templateRecord
		require.NoError(t, json.Unmarshal([]byte(confText(t, path)), &r))
		if r.Made && r.Storage == storage {
			vmids = append(vmids, r.VMID)
		}
	}
	return vmids
}

// With a volume for its root file system a container behaves as with a snapshot.
func TestLifecycleOnVolumes(t *testing.T) {
	w := proxmox(t)
	templates(t, w, linkedStorage)
	for _, table := range [][]scenario{outputs, failures, signals, refusals, execs, terminals, resources} {
		for _, sc := range table {
			t.Run(sc.name, func(t *testing.T) {
				leaveOnlyTemplates(t, w)
				sc.test(t, w, harness.Volume(linkedStorage))
			})
		}
	}
}

// runIn is a whole life of a task, and returns what it printed.
func runIn(t *testing.T, c *harness.Container) string {
	t.Helper()
	ctx := within(t, time.Minute)
	stdio := &harness.Stdio{}
	require.NoError(t, c.Create(ctx, stdio))
	_, err := c.Start(ctx, "")
	require.NoError(t, err)
	_, _, err = c.Wait(ctx, "")
	require.NoError(t, err)
	require.NoError(t, stdio.Wait(ctx))
	_, err = c.Delete(ctx, "")
	require.NoError(t, err)
	return stdio.Out() + stdio.Err()
}

// What a container has written is there in its next life, in the same CT;
// another container of that name begins with the image.
func TestVolumeOutlivesTheTask(t *testing.T) {
	w := proxmox(t)
	for _, storage := range []string{linkedStorage, copyStorage} {
		t.Run(storage, func(t *testing.T) {
			logged(t, w)
			rt := harness.Volume(storage)
			templates(t, w, storage)
			leaveOnlyTemplates(t, w)
			ctx := within(t, time.Minute)
			id := containerID("outlives")
			args := oci.WithProcessArgs("sh", "-c", "cat /count 2>/dev/null; echo life >>/count")
			c, err := w.NewContainer(ctx, rt, id, harness.Image, args)
			require.NoError(t, err)
			assert.Equal(t, "", runIn(t, c))
			vmid := onlyGuest(t, "nexcage", "!nexcage-template")
			tool(t, w, "pct", "set", vmid, "--cores", "1", "--tags", "nexcage;mine")
			assert.Equal(t, "life\n", runIn(t, c))
			assert.Equal(t, "life\nlife\n", runIn(t, c))
			assert.Equal(t, vmid, onlyGuest(t, "nexcage", "!nexcage-template"))
			conf := tool(t, w, "pct", "config", vmid)
			assert.Contains(t, conf, "cores: 1\n", "an operator's own")
			assert.Regexp(t, `(?m)^tags: mine;nexcage;ns-`, conf)
			assert.Regexp(t, `(?m)^rootfs: `+storage+`:.*-`+vmid+`-disk-0`, conf)

			require.NoError(t, c.Remove(ctx))
			forget(t, w)
			c, err = w.NewContainer(ctx, rt, id, harness.Image, args)
			require.NoError(t, err)
			assert.Equal(t, "", runIn(t, c), "another container")
			assert.NotEqual(t, vmid, onlyGuest(t, "nexcage", "!nexcage-template"), "the old volume went with the create")
			require.NoError(t, c.Remove(ctx))
		})
	}
}

// onlyGuest returns the one CT whose configuration has the words, and not those
// that begin with an exclamation mark.
func onlyGuest(t *testing.T, words ...string) string {
	t.Helper()
	var found []string
	for vmid := range guests(t) {
		text, err := os.ReadFile(host.ConfPath(vmid))
		if err != nil {
			continue
		}
		matches := true
		for _, word := range words {
			absent, not := strings.CutPrefix(word, "!")
			matches = matches && strings.Contains(string(text), absent) != not
		}
		if matches {
			found = append(found, strconv.Itoa(vmid))
		}
	}
	require.Len(t, found, 1, "guests with %q", words)
	return found[0]
}

// Creates of one image at once, from as many processes, copy it once.
func TestOneTemplateForManyCreates(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	gcVerb(t, w, "-templates")
	require.Empty(t, madeTemplates(t, linkedStorage))
	w.settle = func(t *testing.T) {
		forget(t, w)
		gcVerb(t, w, "-templates")
	}
	t.Cleanup(func() { w.settle = nil })
	noGuestLeft(t)
	leaveNothing(t, w)
	before, err := w.Node.Calls()
	require.NoError(t, err)
	g := errgroup.Group{}
	ctx := within(t, 2*time.Minute)
	for i := range 4 {
		g.Go(func() error {
			return wholeLife(ctx, w, harness.Volume(linkedStorage), containerID(fmt.Sprint("many-", i)))
		})
	}
	require.NoError(t, g.Wait())
	calls, err := w.Node.Calls()
	require.NoError(t, err)
	count := map[string]int{}
	for _, c := range calls[len(before):] {
		count[c.Argv[1]]++
	}
	assert.Equal(t, 1, count["restore"])
	assert.Equal(t, 1, count["template"])
	assert.Equal(t, 4, count["clone"])
	assert.Len(t, madeTemplates(t, linkedStorage), 1)
}
