package cgroup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The group is made below the scope, with the process in it that was in the
// scope: so that this can give controllers to the group.
func TestAGroupBelowAScopeTakesItsProcess(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		scope := testPath(t, h)
		for _, v := range h.used() { // as systemd does
			require.NoError(t, place{v, filepath.Join(v.mount, scope)}.create())
		}
		t.Cleanup(func() {
			for _, v := range h.used() {
				require.NoError(t, Remove([]string{filepath.Join(v.mount, scope)}))
			}
		})
		cmd := exec.Command("sleep", "1000")
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		pid := strconv.Itoa(cmd.Process.Pid)
		for _, v := range h.used() {
			require.NoError(t, write(filepath.Join(v.mount, scope, "cgroup.procs"), pid))
		}
		g, err := h.adopt(scope, cmd.Process.Pid)
		require.NoError(t, err)
		pids, err := g.Pids()
		require.NoError(t, err)
		assert.Equal(t, []int{cmd.Process.Pid}, pids)
		for i, dir := range g.Dirs() {
			assert.Equal(t, Payload, filepath.Base(dir))
			assert.Equal(t, filepath.Dir(dir), g.Above()[i])
			above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"))
			require.NoError(t, err)
			assert.Empty(t, strings.TrimSpace(string(above)))
		}
		if h.unified() {
			enabled, err := os.ReadFile(filepath.Join(g.Above()[0], "cgroup.subtree_control"))
			require.NoError(t, err)
			available, err := os.ReadFile(filepath.Join(g.Above()[0], "cgroup.controllers"))
			require.NoError(t, err)
			assert.Equal(t, strings.Fields(string(available)), strings.Fields(string(enabled)))
		} else if hasController(h, "cpu") {
			require.NoError(t, g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(77))}}))
			assert.Equal(t, "77", contents(t, g, "cpu", "cpu.shares"))
			dir, err := g.dir("cpu")
			require.NoError(t, err)
			above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cpu.shares"))
			require.NoError(t, err)
			assert.Equal(t, "77", strings.TrimSpace(string(above)), "a share counts where there are neighbours")
		}
		require.NoError(t, g.KillAndWait(context.Background()))
		require.NoError(t, g.Remove())
	})
}

func TestAGroupNeedsItsScope(t *testing.T) {
	h := v2Host(t)
	_, err := h.adopt("no/such.scope", os.Getpid())
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "systemd's scope")
}

func TestShares(t *testing.T) {
	for file, want := range map[string]bool{
		"cpu.weight": true, "cpu.shares": true, "io.bfq.weight": true, "blkio.weight_device": true, "cpu.idle": true,
		"cpu.max": false, "memory.max": false, "io.max": false, "cpu.weight.nice": false,
	} {
		assert.Equal(t, want, isShare(file), file)
	}
}
