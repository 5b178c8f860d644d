package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// shims are the serving shim processes of the session, by the -id that they
// were started for.
func shims(t *testing.T) map[string]int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	found := map[string]int{}
	for _, f := range dirs {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // ended
		}
		argv := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		if !strings.HasPrefix(filepath.Base(argv[0]), "containerd-shim-") {
			continue
		}
		for i, a := range argv[:len(argv)-1] {
			if a == "-id" {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				require.NoError(t, err)
				found[argv[i+1]] = pid
			}
		}
	}
	return found
}

// murder kills a shim with SIGKILL and waits until it is gone.
func murder(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	require.NoError(t, err)
	require.Equal(t, 1, n, "the shim did not end")
}

// phases are what a shim may die in the middle of.
var phases = []struct {
	name   string
	reach  func(s *script)
	events []string
}{
	{"created", func(s *script) { s.create() }, []string{"create", "exit 137", "delete 137"}},
	{"running", func(s *script) { s.create(); s.start() }, []string{"create", "start", "exit 137", "delete 137"}},
	{"exec-running", func(s *script) {
		s.create()
		s.start()
		s.exec("e", &harness.Stdio{}, nil, "sleep", "1000")
		s.startExec("e")
	}, []string{"create", "start", "exec-added e", "exec-started e", "exit 137", "delete 137"}},
	{"paused", func(s *script) {
		s.create()
		s.start()
		s.note("pause", s.Pause(s.ctx))
	}, []string{"create", "start", "paused", "exit 137", "delete 137"}},
}

// TestKilledShimLeavesNothing kills the shim in every phase of a container's
// life: what containerd does then ("delete") has to clean up all of it.
func TestKilledShimLeavesNothing(t *testing.T) {
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		if rt.Reference && os.Getenv("NEXCAGE_TEST_REFERENCE") == "" {
			t.Skip("its own affair")
		}
		for _, phase := range phases {
			t.Run(phase.name, func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				s := newScript(t, w, rt, phase.name, "sh", "-c", "sleep 1001 & exec sleep 1000")
				phase.reach(s)
				require.NoError(t, s.last)
				s.awaitEvent(phase.events[len(phase.events)-3]) // what is still queued dies with the shim
				pid := shims(t)[s.ID]
				require.NotZero(t, pid, "the shim's process")
				murder(t, pid)
				s.checkEvents(phase.events)
				s.state()
				assert.Equal(t, "state: not found", s.log[len(s.log)-1])
			})
		}
	})
}

// newScript is a container for tests that are no scenarios.
func newScript(t *testing.T, w *place, rt harness.Runtime, name string, args ...string) *script {
	t.Helper()
	return newScriptSpec(t, w, rt, name, nil, args...)
}

func newScriptSpec(t *testing.T, w *place, rt harness.Runtime, name string, spec []oci.SpecOpts, args ...string) *script {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	c, err := w.NewContainer(ctx, rt, containerID(name), harness.Image, append([]oci.SpecOpts{oci.WithProcessArgs(args...)}, spec...)...)
	require.NoError(t, err)
	destroyed(t, c)
	return &script{Container: c, t: t, ctx: ctx, place: w, stdio: &harness.Stdio{}}
}

// TestContainersSurviveTheDaemon restarts containerd under running containers.
func TestContainersSurviveTheDaemon(t *testing.T) {
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		if rt.Reference && os.Getenv("NEXCAGE_TEST_REFERENCE") == "" {
			t.Skip("its own affair")
		}
		logged(t, w)
		leaveNothing(t, w)
		s := newScriptSpec(t, w, rt, "survivor", nil, "sleep", "1000")
		s.stdio = &harness.Stdio{Null: true}
		s.create()
		s.start()
		restart(t, w)
		s.Reconnect()
		s.state()
		s.runExec("e", nil, "echo", "still here")
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()
		assert.Equal(t, []string{
			"create: ok", "start: ok", "state: running", "exec e: ok", "start e: ok", "exit e: 0", `stdout e: "still here\n"`, "delete e: 0",
			"kill 9: ok", "exit: 137", "delete: 137",
		}, s.log)
	})
}

func restart(t *testing.T, w *place) {
	t.Helper()
	require.NoError(t, w.StopDaemon())
	require.NoError(t, w.StartDaemon(t.Context()))
	w.events = w.Watch(w.life)
}

// TestGroupSharesOneShim runs several containers in one shim, as a pod does.
func TestGroupSharesOneShim(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, annotation := range []string{"io.containerd.nexcage.v2.group", "io.containerd.runc.v2.group"} {
			t.Run(annotation, func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				members := group(t, w, rt, annotation, 4)
				assert.Len(t, shims(t), 1, "shims")
				for i, s := range members {
					s.kill(uint32(unix.SIGKILL))
					s.wait()
					s.delete()
					for _, rest := range members[i+1:] {
						rest.runExec("e"+strconv.Itoa(i), nil, "true")
						assert.NoError(t, rest.last, "a member that lives on")
					}
				}
			})
		}
		t.Run("killed", func(t *testing.T) { killedGroupLeavesNothing(t, w, rt) })
	})
}

func killedGroupLeavesNothing(t *testing.T, w *place, rt harness.Runtime) {
	logged(t, w)
	leaveNothing(t, w)
	members := group(t, w, rt, "io.containerd.nexcage.v2.group", 3)
	for _, s := range members {
		s.awaitEvent("start")
	}
	for _, pid := range shims(t) {
		murder(t, pid)
	}
	for _, s := range members {
		s.checkEvents([]string{"create", "start", "exit 137", "delete 137"})
	}
}

func group(t *testing.T, w *place, rt harness.Runtime, annotation string, n int) []*script {
	t.Helper()
	var members []*script
	for i := range n {
		note := oci.WithAnnotations(map[string]string{annotation: "pod"})
		s := newScriptSpec(t, w, rt, fmt.Sprintf("member-%d", i), []oci.SpecOpts{note, hostPIDs(i)}, forever...)
		s.create()
		s.start()
		require.NoError(t, s.last)
		members = append(members, s)
	}
	return members
}

// hostPIDs gives every second member no pid namespace of its own.
func hostPIDs(i int) oci.SpecOpts {
	if i%2 == 1 {
		return oci.WithHostNamespace(specs.PIDNamespace)
	}
	return oci.Compose()
}
