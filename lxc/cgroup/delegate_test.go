package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	return st.Uid
}

// tree is a group of files as a kernel has them.
func tree(t *testing.T, unified bool, inner string) (*Group, string) {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, inner)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "below"), 0o755))
	for _, name := range []string{"cgroup.procs", "cgroup.subtree_control", "memory.max", "memory.reclaim", "below/cgroup.procs"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	return &Group{unified: unified, inner: inner, places: []place{{hierarchy{mount: filepath.Dir(top), v2: unified}, top}}}, dir
}

func TestDelegateGivesTheGroupAndTheFilesOfItsManager(t *testing.T) {
	list := filepath.Join(t.TempDir(), "delegate")
	require.NoError(t, os.WriteFile(list, []byte("cgroup.procs\ncgroup.threads\nmemory.reclaim\n"), 0o444))
	for name, tc := range map[string]struct {
		list, inner string
		given       []string
	}{
		"by the kernel's list": {list, "", []string{".", "cgroup.procs", "memory.reclaim"}},
		"without a list":       {list + ".none", "", []string{".", "cgroup.procs", "cgroup.subtree_control"}},
		"of two levels":        {list, "ns", []string{".", "cgroup.procs", "memory.reclaim"}},
	} {
		t.Run(name, func(t *testing.T) {
			g, dir := tree(t, true, tc.inner)
			require.NoError(t, g.delegate(1234, tc.list))
			var given []string
			for _, name := range []string{".", "cgroup.procs", "cgroup.subtree_control", "memory.max", "memory.reclaim", "below", "below/cgroup.procs"} {
				if owner(t, filepath.Join(dir, name)) == 1234 {
					given = append(given, name)
				}
			}
			assert.Equal(t, tc.given, given)
			if tc.inner != "" {
				assert.Zero(t, owner(t, filepath.Dir(dir)), "where the limits are")
			}
		})
	}
}

func TestDelegateLeavesCgroupV1(t *testing.T) {
	g, dir := tree(t, false, "")
	require.NoError(t, g.delegate(1234, delegateFile))
	assert.Zero(t, owner(t, dir))
	assert.Zero(t, owner(t, filepath.Join(dir, "cgroup.procs")))
}

func TestDelegateSaysWhatItCouldNotGive(t *testing.T) {
	g, dir := tree(t, true, "")
	require.NoError(t, os.RemoveAll(dir))
	assert.ErrorContains(t, g.delegate(1234, delegateFile), "delegate control group: chown "+dir)
	assert.ErrorContains(t, g.delegate(1234, t.TempDir()), "is a directory")
}

// The user of a group on a real cgroup2 makes groups below it.
func TestADelegatedGroupCanBeDivided(t *testing.T) {
	g := newGroup(t, v2Host(t))
	require.NoError(t, g.Delegate(1234))
	dir := g.Dirs()[0]
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
		assert.EqualValues(t, 1234, owner(t, filepath.Join(dir, name)), name)
	}
	assert.Zero(t, owner(t, filepath.Join(dir, "cgroup.max.depth")))
}
