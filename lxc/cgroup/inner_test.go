package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// asLXC makes the group of a test as LXC does: the processes are in ns below
// it. It returns the group as OfLXC finds it.
func asLXC(t *testing.T, h *host) *Group {
	t.Helper()
	outer := newGroup(t, h)
	inner := &Group{}
	for _, p := range outer.places {
		inner.places = append(inner.places, place{p.hierarchy, filepath.Join(p.dir, "ns")})
		require.NoError(t, inner.places[len(inner.places)-1].create())
	}
	cmd := start(t, inner, "read forever")
	g, err := OfLXC(cmd.Process.Pid, "ns")
	require.NoError(t, err)
	require.Subset(t, g.Dirs(), outer.Dirs(), "it is the outer one")
	return g
}

func TestAProcessJoinsTheInnerGroup(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := asLXC(t, h)
		g.unified = h.unified()
		files, err := g.JoinFiles()
		require.NoError(t, err)
		defer closeAll(files)
		for _, f := range files {
			assert.Equal(t, "ns", filepath.Base(filepath.Dir(f.Name())))
		}
		pids, err := g.Pids()
		require.NoError(t, err)
		assert.Len(t, pids, 1, "seen from the outer one")
	})
}

func TestLimitsOfAGroupOfLXCGoWhereTheyReachTheProcesses(t *testing.T) {
	h := v1Host(t)
	g := asLXC(t, h)
	err := g.Apply(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(7))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Cpus: "0"},
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"},
		},
	})
	require.NoError(t, err)
	assert.Equal(t, "67108864", contents(t, g, "memory", "memory.limit_in_bytes"), "where Proxmox sets it")
	assert.Equal(t, "7", contents(t, g, "pids", "pids.max"))
	assert.Equal(t, "512", contents(t, g, "cpu", "cpu.shares"))
	assert.Equal(t, "0", contents(t, g, "cpuset", "ns/cpuset.cpus"), "it can not be less above")
	assert.Equal(t, "c 1:3 rwm", contents(t, g, "devices", "ns/devices.list"), "it can not be changed above")
}

func TestUnlimitLiftsWhatProxmoxSets(t *testing.T) {
	h := v1Host(t)
	g := asLXC(t, h)
	unlimited := contents(t, g, "memory", "memory.limit_in_bytes")
	require.NoError(t, g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}}))
	require.NoError(t, g.Unlimit())
	assert.Equal(t, unlimited, contents(t, g, "memory", "memory.limit_in_bytes"))
}

// An operator's limit, as Proxmox sets it, is no obstacle to a higher one.
func TestLiftOthers(t *testing.T) {
	h := v1Host(t)
	g := asLXC(t, h)
	limit := func(mib int64, swap *int64) error {
		return g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(mib << 20), Swap: swap}})
	}
	require.NoError(t, limit(64, ptr(int64(64<<20))))
	require.NoError(t, g.LiftOthers(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(64 << 20))}}))
	assert.Equal(t, "67108864", contents(t, g, "memory", "memory.memsw.limit_in_bytes"), "the container's own")
	assert.Error(t, limit(96, nil))
	require.NoError(t, g.LiftOthers(&specs.LinuxResources{}))
	require.NoError(t, limit(96, nil))
}

func TestLiftOthersOnV2(t *testing.T) {
	dir := t.TempDir()
	high := filepath.Join(dir, memoryHigh)
	g := &Group{unified: true, places: []place{{hierarchy{mount: filepath.Dir(dir), v2: true}, dir}}}
	require.NoError(t, os.WriteFile(high, []byte("1016"), 0o644))
	require.NoError(t, g.LiftOthers(&specs.LinuxResources{Unified: map[string]string{memoryHigh: "1016"}}))
	text, err := os.ReadFile(high)
	require.NoError(t, err)
	assert.Equal(t, "1016", string(text))
	require.NoError(t, g.LiftOthers(&specs.LinuxResources{}))
	text, err = os.ReadFile(high)
	require.NoError(t, err)
	assert.Equal(t, "max", string(text[:3]))
}

func TestFiguresOfAGroupOfLXCOutliveIt(t *testing.T) {
	h := v1Host(t)
	g := asLXC(t, h)
	require.NoError(t, g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}}))
	w, events := newWatcher(t)
	require.NoError(t, w.Add("c1", g))
	dir, err := g.dir("memory")
	require.NoError(t, err)
	outer := &Group{places: g.places}
	assert.Error(t, start(t, outer, "echo $$ >"+dir+"/ns/cgroup.procs; exec tail /dev/zero").Wait())
	require.NoError(t, g.Keep())
	n, ok := g.keptKills()
	assert.True(t, ok)
	assert.Equal(t, uint64(1), n, "v1 counts it in the inner one")
	require.NoError(t, g.KillAndWait(t.Context()))
	require.NoError(t, g.Remove())
	w.Flush("c1")
	assert.Len(t, events, 1)
	_, err = g.Stats()
	assert.NoError(t, err)
}

func TestAProcessOutsideOfAGroupOfLXCIsToldFromOne(t *testing.T) {
	_, err := OfLXC(os.Getpid(), "no-such-name")
	assert.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	_, err = OfLXC(1<<30, "ns")
	assert.ErrorIs(t, err, unix.ENOENT)
}
