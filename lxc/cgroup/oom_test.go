package cgroup

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newWatcher returns a Watcher and where its notifications arrive.
func newWatcher(t *testing.T) (*Watcher, chan string) {
	t.Helper()
	events := make(chan string, 100)
	w, err := NewOOMWatcher(func(id string) { events <- id })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w, events
}

func await(t *testing.T, events chan string) string {
	t.Helper()
	select {
	case id := <-events:
		return id
	case <-time.After(10 * time.Second):
		require.Fail(t, "no event")
		return ""
	}
}

// quiet fails if there is an event in the time that the last retry takes.
func quiet(t *testing.T, events chan string) {
	t.Helper()
	select {
	case id := <-events:
		assert.Fail(t, "unexpected event", id)
	case <-time.After(retries[len(retries)-1] + 300*time.Millisecond):
	}
}

func limited(t *testing.T) *Group {
	t.Helper()
	g := newGroup(t, v1Host(t))
	limit := int64(16 << 20)
	require.NoError(t, g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}))
	return g
}

func TestAnOOMKillIsReportedOnce(t *testing.T) {
	g := limited(t)
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	cmd, out := startPiped(t, g, "tail /dev/zero; echo x; read forever")
	_, err := out.ReadByte()
	require.NoError(t, err)
	assert.Equal(t, "c1", await(t, events))
	w.Flush("c1")
	quiet(t, events)
	// And the next one.
	require.NoError(t, cmd.Process.Kill())
	assert.Error(t, start(t, g, "exec tail /dev/zero").Wait())
	assert.Equal(t, "c1", await(t, events))
	quiet(t, events)
}

func TestFlushReportsBeforeItReturns(t *testing.T) {
	g := limited(t)
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	assert.ErrorContains(t, start(t, g, "exec tail /dev/zero").Wait(), "killed")
	w.Flush("c1")
	assert.Len(t, events, 1)
	assert.Equal(t, "c1", <-events)
	quiet(t, events)
}

func TestFlushAfterTheGroupUsesTheKeptFigures(t *testing.T) {
	g := limited(t)
	events := make(chan string, 10)
	w := &Watcher{notify: func(id string) { events <- id }, byID: map[string]*watch{}, byFD: map[int32]*watch{}}
	dir, err := g.dir("memory")
	require.NoError(t, err)
	w.byID["c1"] = &watch{id: "c1", group: g, dir: dir, fd: -1, counter: "oom_kill"}
	assert.Error(t, start(t, g, "exec tail /dev/zero").Wait())
	require.NoError(t, g.Keep())
	require.NoError(t, g.Remove())
	w.Flush("c1")
	assert.Len(t, events, 1)
}

func TestAKillInAGroupBelowIsReported(t *testing.T) {
	g := limited(t)
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	dir, err := g.dir("memory")
	require.NoError(t, err)
	below := filepath.Join(dir, "below")
	require.NoError(t, unix.Mkdir(below, 0o755))
	assert.Error(t, start(t, g, "echo $$ >"+below+"/cgroup.procs; exec tail /dev/zero").Wait())
	assert.Equal(t, "c1", await(t, events))
}

// The kernel tells every group below the one that is out of memory.
func TestAKillInAnotherContainerOfThePodIsNotReported(t *testing.T) {
	h := v1Host(t)
	path := testPath(t, h)
	killed, err := h.create(filepath.Join(filepath.Dir(path), "killed"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, killed.Remove()) })
	spared, err := h.create(filepath.Join(filepath.Dir(path), "spared"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, spared.Remove()) })
	dir, err := killed.dir("memory")
	require.NoError(t, err)
	require.NoError(t, write(filepath.Join(filepath.Dir(dir), "memory.limit_in_bytes"), "16777216"))
	w, events := newWatcher(t)
	require.NoError(t, w.Add("killed", killed))
	require.NoError(t, w.Add("spared", spared))
	assert.Error(t, start(t, killed, "exec tail /dev/zero").Wait())
	assert.Equal(t, "killed", await(t, events))
	quiet(t, events)
}

func TestNothingIsReportedOfARemovedGroup(t *testing.T) {
	g := limited(t)
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	require.ErrorIs(t, w.Add("c1", g), errdefs.ErrAlreadyExists)
	require.NoError(t, g.Remove()) // the kernel tells that too
	quiet(t, events)
	w.Flush("c1")
	assert.Empty(t, events)
	w.Remove("c1")
	w.Remove("c1")
	w.Flush("c1")
	assert.ErrorIs(t, w.Add("c1", g), errdefs.ErrNotImplemented, "no file to watch")
}

func TestNothingIsReportedAfterRemove(t *testing.T) {
	g := limited(t)
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	w.Remove("c1")
	assert.Error(t, start(t, g, "exec tail /dev/zero").Wait())
	w.Flush("c1")
	quiet(t, events)
	require.NoError(t, w.Add("c1", g), "kills of the past are not news")
	w.Flush("c1")
	assert.Empty(t, events)
}

// The memory controller may not be on the cgroup2 of this machine: its
// cgroup.events tells of changes in the same way as memory.events.
func TestV2ReportsWhenTheCounterRises(t *testing.T) {
	g := newGroup(t, v2Host(t))
	w, events := newWatcher(t)
	fd, err := unix.Open(filepath.Join(g.anyDir(), "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	c := &watch{id: "c1", group: g, dir: g.anyDir(), fd: fd, counter: "populated"}
	c.seen, err = c.kills()
	require.NoError(t, err)
	require.NoError(t, w.register(c, unix.EPOLLPRI|unix.EPOLLET))
	start(t, g, "read forever")
	assert.Equal(t, "c1", await(t, events))
	require.NoError(t, g.KillAndWait(t.Context()))
	require.NoError(t, g.Remove())
	quiet(t, events)
}

func TestOneWatcherForManyGroups(t *testing.T) {
	w, events := newWatcher(t)
	want := map[string]int{}
	for _, id := range []string{"c1", "c2", "c3", "c4", "c5"} {
		t.Run(id, func(t *testing.T) {
			g := limited(t)
			require.NoError(t, w.Add(id, g))
			assert.Error(t, start(t, g, "exec tail /dev/zero").Wait())
			want[id]++
			w.Flush(id)
			w.Remove(id)
		})
	}
	got := map[string]int{}
	for range len(events) {
		got[<-events]++
	}
	assert.Equal(t, want, got)
}
