package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCreateLoadAndRemove(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		path := testPath(t, h)
		g, err := h.create(path)
		require.NoError(t, err)
		for _, v := range h.used() {
			assert.DirExists(t, filepath.Join(v.mount, path))
		}
		same, err := At(g.Dirs())
		require.NoError(t, err)
		assert.Equal(t, g.Dirs(), same.Dirs())
		require.NoError(t, os.Mkdir(filepath.Join(g.Dirs()[0], "below"), 0o755))
		require.NoError(t, Remove(g.Dirs()))
		require.NoError(t, g.Remove(), "again")
		for _, dir := range g.Dirs() {
			assert.NoDirExists(t, dir)
		}
		_, err = At(g.Dirs())
		assert.ErrorIs(t, err, errdefs.ErrNotFound)
	})
}

func TestCreateTakesAnEmptyGroupOnly(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		path := strings.TrimPrefix(g.places[0].dir, g.places[0].mount)
		_, err := h.create(path)
		require.NoError(t, err)
		start(t, g, "read forever")
		_, err = h.create(path)
		assert.ErrorIs(t, err, errdefs.ErrAlreadyExists)
		assert.DirExists(t, g.Dirs()[0], "it is another's")
	})
}

// bash: unlike dash, it knows descriptors above 9.
const join = `for fd in "$@"; do echo 0 >&$fd || exit 1; done; cat /proc/self/cgroup; read forever`

func TestAProcessJoinsByFiles(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		files, err := g.JoinFiles()
		require.NoError(t, err)
		defer closeAll(files)
		cmd := exec.Command("/bin/bash", "-c", join, "bash")
		for i := range files {
			cmd.Args = append(cmd.Args, fmt.Sprint(3+i))
		}
		cmd.ExtraFiles = files
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		defer in.Close()
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		_, err = out.Read(make([]byte, 1))
		require.NoError(t, err)
		for _, p := range g.places {
			pids, err := readPids(filepath.Join(p.dir, "cgroup.procs"))
			require.NoError(t, err)
			assert.Contains(t, pids, cmd.Process.Pid, p.dir)
		}
		of, err := Of(cmd.Process.Pid)
		require.NoError(t, err)
		assert.Subset(t, of.Dirs(), g.Dirs())
	})
}

func TestAProcessStartsInAV2Group(t *testing.T) {
	g := newGroup(t, v2Host(t))
	dir, err := g.Dir()
	require.NoError(t, err)
	defer dir.Close()
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pids, err := g.Pids()
	require.NoError(t, err)
	assert.Equal(t, []int{cmd.Process.Pid}, pids)
}

func TestAFurtherProcessIsBesideAnInitThatMovedBelow(t *testing.T) {
	g := newGroup(t, v2Host(t))
	first := start(t, g, "read forever")
	beside, err := g.Beside(first.Process.Pid)
	require.NoError(t, err)
	assert.Equal(t, g.Dirs(), beside.Dirs())
	below := filepath.Join(g.anyDir(), "below")
	require.NoError(t, os.Mkdir(below, 0o755))
	require.NoError(t, write(filepath.Join(below, "cgroup.procs"), fmt.Sprint(first.Process.Pid)))
	beside, err = g.Beside(first.Process.Pid)
	require.NoError(t, err)
	assert.Equal(t, []string{below}, beside.Dirs())
	beside, err = g.Beside(os.Getpid())
	require.NoError(t, err)
	assert.Equal(t, g.Dirs(), beside.Dirs(), "of a process that is not of the container")
}

func TestNoProcessStartsInAV1Group(t *testing.T) {
	none, err := newGroup(t, v1Host(t)).Dir()
	require.NoError(t, err)
	assert.Nil(t, none)
}

func TestWarmMovesNobody(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	require.NoError(t, Warm())
	require.NoError(t, v2Host(t).warm())
	after, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
}

func TestPidsBelowTheGroupToo(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		first := start(t, g, "read forever")
		second := start(t, g, "read forever")
		below := filepath.Join(g.anyDir(), "below")
		require.NoError(t, os.Mkdir(below, 0o755))
		require.NoError(t, write(filepath.Join(below, "cgroup.procs"), fmt.Sprint(second.Process.Pid)))
		pids, err := g.Pids()
		require.NoError(t, err)
		assert.ElementsMatch(t, []int{first.Process.Pid, second.Process.Pid}, pids)
	})
}

func TestFreezeStopsAndThawResumes(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		_, out := startPiped(t, g, "while :; do echo x; done")
		_, err := out.ReadByte()
		require.NoError(t, err)
		require.NoError(t, g.Freeze(t.Context()))
		frozen, err := g.Frozen()
		require.NoError(t, err)
		assert.True(t, frozen)
		require.NoError(t, g.Freeze(t.Context()), "again")
		require.NoError(t, g.Thaw(t.Context()))
		frozen, err = g.Frozen()
		require.NoError(t, err)
		assert.False(t, frozen)
		for range 1 << 17 { // more than was in the pipe
			_, err := out.ReadByte()
			require.NoError(t, err)
		}
	})
}

func TestFreezeGivesUpWithItsContext(t *testing.T) {
	g := newGroup(t, v2Host(t))
	w, err := watchFile(filepath.Join(g.anyDir(), "cgroup.events"))
	require.NoError(t, err)
	defer w.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, w.until(ctx, isFrozen), context.DeadlineExceeded)
}

func TestFreezeOfAGroupThatIsGone(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		require.NoError(t, g.Remove())
		assert.ErrorIs(t, g.Freeze(t.Context()), errdefs.ErrNotFound)
		assert.ErrorIs(t, g.Thaw(t.Context()), errdefs.ErrNotFound)
		assert.NoError(t, g.Kill(t.Context(), unix.SIGKILL))
		assert.NoError(t, g.Kill(t.Context(), unix.SIGTERM))
		_, err := g.Stats()
		assert.ErrorIs(t, err, errdefs.ErrNotFound)
	})
}

func TestKill(t *testing.T) {
	for name, frozen := range map[string]bool{"running": false, "frozen": true} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, h *host) {
				g := newGroup(t, h)
				// It forks all the time.
				_, out := startPiped(t, g, "trap '' TERM; echo x; while :; do sleep 100 & sleep 0.01; done")
				_, err := out.ReadByte()
				require.NoError(t, err)
				if frozen {
					require.NoError(t, g.Freeze(t.Context()))
				}
				require.NoError(t, g.KillAndWait(t.Context()))
				pids, err := g.Pids()
				require.NoError(t, err)
				assert.Empty(t, pids)
			})
		})
	}
}

func TestOtherSignalsLeaveAFrozenGroupFrozen(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		cmd, out := startPiped(t, g, "trap 'exit 3' TERM; echo x; read forever")
		_, err := out.ReadByte()
		require.NoError(t, err)
		require.NoError(t, g.Freeze(t.Context()))
		require.NoError(t, g.Kill(t.Context(), unix.SIGTERM))
		file := "freezer.self_freezing"
		if g.unified {
			file = "cgroup.freeze"
		}
		assert.Equal(t, "1", contents(t, g, "freezer", file))
		require.NoError(t, g.Thaw(t.Context()))
		assert.ErrorContains(t, cmd.Wait(), "exit status 3")
	})
}

func TestSignalReachesEveryProcess(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		one, two := start(t, g, "exec sleep 100"), start(t, g, "exec sleep 100")
		require.NoError(t, g.Kill(t.Context(), unix.SIGTERM))
		assert.ErrorContains(t, one.Wait(), "terminated")
		assert.ErrorContains(t, two.Wait(), "terminated")
	})
}

func TestRemoveWaitsForTheKilled(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		for range 20 {
			start(t, g, "exec sleep 100")
		}
		require.NoError(t, g.Kill(t.Context(), unix.SIGKILL))
		require.NoError(t, g.Remove())
		assert.NoDirExists(t, g.Dirs()[0])
	})
}

func TestRemoveNamesTheProcessesThatStay(t *testing.T) {
	h := v1Host(t)
	g := newGroup(t, h)
	cmd := start(t, g, "read forever")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := removeTree(ctx, g.anyDir())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, fmt.Sprintf("processes [%d] are in it", cmd.Process.Pid))
}

func TestRemoveEmptyLeavesGroupsThatAreInUse(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		path := strings.TrimPrefix(g.places[0].dir, g.places[0].mount)
		cmd := start(t, g, "read forever")
		require.NoError(t, h.removeEmpty(path))
		for _, dir := range g.Dirs() {
			assert.DirExists(t, dir)
		}
		require.NoError(t, cmd.Process.Kill())
		assert.Error(t, cmd.Wait())
		require.NoError(t, h.removeEmpty(path))
		for _, dir := range g.Dirs() {
			assert.NoDirExists(t, dir)
		}
		require.NoError(t, h.removeEmpty(path), "again")
	})
}
