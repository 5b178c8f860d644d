package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// volumeCommands are those that make a container's volume.
var volumeCommands = []string{"restore", "template", "clone"}

// noTemplate lets a test begin without a template, and end without anything.
func noTemplate(t *testing.T, w *place) {
	t.Helper()
	forget(t, w)
	gcVerb(t, w, "-templates")
	require.Empty(t, madeTemplates(t, linkedStorage))
	w.settle = func(t *testing.T) {
		forget(t, w)
		gcVerb(t, w, "-templates")
		noVolumeLeft(t)
	}
	t.Cleanup(func() { w.settle = nil })
	noGuestLeft(t)
	leaveNothing(t, w)
}

// noVolumeLeft looks at the storages themselves: a volume may have no CT.
func noVolumeLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/var/lib/vz/rpool/data/*", "/var/lib/vz/images/*", "/var/lib/nexcage/*/*.json"} {
		left, err := filepath.Glob(pattern)
		require.NoError(t, err)
		assert.Empty(t, left)
	}
}

// However pct fails while it makes a volume, the user is told in one line, nothing that is
// half made is used, and the next create works.
func TestPctFailsWhileItMakesAVolume(t *testing.T) {
	w := proxmox(t)
	for _, command := range append(volumeCommands, "start") {
		for name, tc := range map[string]struct {
			fault host.Fault
			want  string
		}{
			"killed before":      {host.Fault{Kill: "before"}, "pct " + command},
			"killed in between":  {host.Fault{Kill: "middle"}, "pct " + command},
			"killed after":       {host.Fault{Kill: "after"}, "pct " + command},
			"its worker goes on": {host.Fault{Kill: "parent"}, "pct " + command},
			"storage is full":    {host.Fault{Error: "storage-full"}, "out of space"},
			"no quorum":          {host.Fault{Error: "no-quorum"}, "no quorum"},
			"locked":             {host.Fault{Error: "lock-timeout"}, "got timeout"},
		} {
			if name == "storage is full" && (command == "template" || command == "start") {
				continue // they allocate nothing
			}
			t.Run(command+" "+name, func(t *testing.T) {
				logged(t, w)
				noTemplate(t, w)
				ctx := within(t, time.Minute)
				tc.fault.Command, tc.fault.Times = "pct "+command, 1
				faulty(t, w, tc.fault)
				c, err := w.NewContainer(ctx, harness.Volume(linkedStorage), containerID("fails"), harness.Image, oci.WithProcessArgs("echo", "the image is whole"))
				require.NoError(t, err)
				destroyed(t, c)
				err = c.Create(ctx, &harness.Stdio{})
				if name == "killed after" && command == "template" && err == nil {
					return // it had done its work, and its exit code tells nothing
				}
				require.ErrorContains(t, err, tc.want)
				assert.NotContains(t, err.Error(), "\n", "one line")
				assert.Regexp(t, `\b9\d{5}\b`, err.Error(), "the VMID")
				assert.Equal(t, "the image is whole\n", runIn(t, c))
				assert.Len(t, madeTemplates(t, linkedStorage), 1)
			})
		}
	}
}

// barrier is a FIFO that a command waits at.
func barrier(t *testing.T, w *place, command string) string {
	t.Helper()
	path := filepath.Join(w.Dir, "gate-"+strings.ReplaceAll(command, " ", "-"))
	require.NoError(t, unix.Mkfifo(path, 0o600))
	t.Cleanup(func() { assert.NoError(t, os.Remove(path)) })
	faulty(t, w, host.Fault{Command: command, Gate: path, Times: 1})
	return path
}

// awaitPct waits for the end of all processes that make volumes.
func awaitPct(t *testing.T) {
	t.Helper()
	locks, err := filepath.Glob("/var/lib/nexcage/*/*.lock")
	require.NoError(t, err)
	for _, path := range locks {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
		require.NoError(t, f.Close())
	}
}

// Proxmox locks what it clones: creates of one image wait for each other, and a
// lock that a killed pct has left is no hindrance.
func TestClonesOfOneTemplateTakeTurns(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	template := templates(t, w, linkedStorage)[0]
	leaveOnlyTemplates(t, w)
	path := barrier(t, w, "pct clone")
	ctx := within(t, time.Minute)
	g := errgroup.Group{}
	for i := range 3 {
		g.Go(func() error {
			return wholeLife(ctx, w, harness.Volume(linkedStorage), containerID(fmt.Sprint("turn-", i)))
		})
	}
	pct, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	assert.Contains(t, confText(t, host.ConfPath(template)), "lock: disk\n")
	require.NoError(t, pct.Close())
	require.NoError(t, g.Wait())

	require.NoError(t, w.Node.SetFaults(host.Fault{Command: "pct clone", Kill: "middle", Times: 1}))
	require.Error(t, wholeLife(ctx, w, harness.Volume(linkedStorage), containerID("turn-killed")))
	require.Contains(t, confText(t, host.ConfPath(template)), "lock: disk\n")
	require.NoError(t, wholeLife(ctx, w, harness.Volume(linkedStorage), containerID("turn-next")))
}

// A shim that is killed while pct makes the volume leaves what is never used: the next
// create waits for that pct, and begins anew; or gc removes it.
func TestShimKilledWhileItMakesAVolume(t *testing.T) {
	w := proxmox(t)
	for _, command := range volumeCommands {
		for name, after := range map[string]func(t *testing.T, c *harness.Container){
			"create again": func(t *testing.T, c *harness.Container) {
				assert.Equal(t, "the image is whole\n", runIn(t, c))
				assert.Len(t, madeTemplates(t, linkedStorage), 1)
			},
			"gc": func(t *testing.T, _ *harness.Container) { awaitPct(t) }, // and gc is at the end of each test
		} {
			t.Run(command+" "+name, func(t *testing.T) {
				logged(t, w)
				noTemplate(t, w)
				ctx := within(t, time.Minute)
				path := barrier(t, w, "pct "+command)
				c, err := w.NewContainer(ctx, harness.Volume(linkedStorage), containerID("killed"), harness.Image, oci.WithProcessArgs("echo", "the image is whole"))
				require.NoError(t, err)
				destroyed(t, c)
				failed := make(chan error, 1)
				go func() { failed <- c.Create(ctx, &harness.Stdio{}) }()
				pct, err := os.OpenFile(path, os.O_WRONLY, 0) // pct is there
				require.NoError(t, err)
				murder(t, shims(t)[c.ID])
				require.Error(t, <-failed)
				gcVerb(t, w, "-templates") // leaves alone what pct works on
				require.NoError(t, pct.Close())
				after(t, c)
			})
		}
	}
}

// A shim that hears exit statuses from Proxmox's lxc-monitord leaves no file of
// its watching when it is killed.
func TestKilledWatcherLeavesNothingOnProxmox(t *testing.T) {
	w := proxmox(t)
	logged(t, w)
	leaveNothing(t, w)
	rt := harness.LXC()
	rt.Options = harness.Config("[lxc.pve]\nexit_status = 'monitor'\n")
	s := newScript(t, w, rt, "watcher", "sleep", "1000")
	s.create()
	s.start()
	s.awaitEvent("start")
	murder(t, shims(t)[s.ID])
	s.checkEvents([]string{"create", "start", "exit 137", "delete 137"})
}

// TestKilledShimLeavesNothing for containers with volumes: which stay.
func TestKilledShimLeavesTheVolume(t *testing.T) {
	w := proxmox(t)
	templates(t, w, linkedStorage)
	for _, phase := range phases {
		t.Run(phase.name, func(t *testing.T) {
			logged(t, w)
			leaveOnlyTemplates(t, w)
			s := newScript(t, w, harness.Volume(linkedStorage), "volume-"+phase.name, "sh", "-c", "echo here >/written; sleep 1001 & exec sleep 1000")
			phase.reach(s)
			require.NoError(t, s.last)
			s.awaitEvent(phase.events[len(phase.events)-3])
			vmid := recordedVMID(t, s)
			murder(t, shims(t)[s.ID])
			s.checkEvents(phase.events)
			assert.FileExists(t, "/etc/pve/lxc/"+vmid+".conf")
		})
	}
}
