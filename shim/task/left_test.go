package task

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

// left is the record of a container whose shim has died and whose delete verb
// has failed.
func left(t *testing.T, change func(*state.State)) *entry {
	e := newEntry(t, nil, "c1", nil)
	require.NoError(t, os.Remove(e.state.Bundle+"/"+stateLink))
	require.NoError(t, os.Remove(e.state.Bundle))
	require.NoError(t, e.update(func(st *state.State) {
		st.Backend = "lxc"
		if change != nil {
			change(st)
		}
	}))
	return e
}

// engine is one that still has the container ns/c1, and runs a script instead of
// `--root DIR delete --force c1`.
func engine(t *testing.T, script string) *options.Options {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "ns", "c1"), 0o700))
	path := filepath.Join(dir, "engine")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return &options.Options{BinaryName: path, Root: dir}
}

// again is a new container with the same id.
func again(t *testing.T, e *entry) (bundle string, err error) {
	_, s, _ := newTestService(t)
	bundle = t.TempDir()
	return bundle, s.make(t.Context(), &entry{dir: e.dir, state: state.State{ID: "c1", Status: "creating", Bundle: bundle}}, bundle)
}

func TestWhatAnEarlierContainerHasLeftIsRemoved(t *testing.T) {
	self, err := lxc.ThisProcess()
	require.NoError(t, err)
	base := func(t *testing.T, e *entry) string {
		base := filepath.Join(string(e.dir), "base")
		require.NoError(t, os.Mkdir(base, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(base, "init"), nil, 0o600))
		require.NoError(t, e.update(func(st *state.State) {
			st.LXC = &lxc.Record{Bundle: st.Bundle, StateDir: string(e.dir), LXCPath: filepath.Join(t.TempDir(), "ns"), Name: "c1"}
		}))
		return base
	}
	for name, tc := range map[string]struct {
		change func(*state.State)
		more   func(t *testing.T, e *entry)
	}{
		"nothing made":        {},
		"of a shim that died": {change: func(st *state.State) { st.Shim = lxc.Proc{PID: self.PID, StartTime: 1} }},
		"of this very shim":   {change: func(st *state.State) { st.Shim = self }},
		"what LXC had":        {more: func(t *testing.T, e *entry) { base(t, e) }},
		"no state": {more: func(t *testing.T, e *entry) {
			require.NoError(t, os.Remove(filepath.Join(string(e.dir), "state.json")))
		}},
		"a container of crun":  {change: func(st *state.State) { st.Backend, st.Crun = "crun", engine(t, `rm -r "$2/$5"`) }},
		"crun made none of it": {change: func(st *state.State) { st.Backend = "crun" }},
	} {
		t.Run(name, func(t *testing.T) {
			e := left(t, tc.change)
			if tc.more != nil {
				tc.more(t, e)
			}
			bundle, err := again(t, e)
			require.NoError(t, err)
			st, err := e.dir.Read()
			require.NoError(t, err)
			assert.Equal(t, bundle, st.Bundle, "the new container's")
			assert.NoDirExists(t, filepath.Join(string(e.dir), "base"))
		})
	}
}

func TestWhatIsInTheWayOfANewContainerIsNamed(t *testing.T) {
	other := exec.Command("sleep", "1000")
	served, err := child.Start(other)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, other.Process.Kill()); <-served.Done() })
	serving, err := lxc.ProcOf(other.Process.Pid)
	require.NoError(t, err)
	bundle := t.TempDir()
	crun := func(o *options.Options) func(*state.State) {
		return func(st *state.State) { st.Backend, st.Crun = "crun", o }
	}
	for name, tc := range map[string]struct {
		change func(*state.State)
		inside string
		kind   error
		want   string
	}{
		"a shim that lives":    {func(st *state.State) { st.Shim = serving }, "", errdefs.ErrAlreadyExists, "it is served by the shim with pid"},
		"a bundle that exists": {func(st *state.State) { st.Bundle = bundle }, "", errdefs.ErrAlreadyExists, "its bundle " + bundle + " still exists"},
		"what is not ours":     {nil, "strange/thing", unix.EISDIR, "strange"},
		"crun that can not":    {crun(engine(t, "echo no; exit 3")), "", nil, "exit status 3: no"},
		"crun that does not":   {crun(engine(t, "exit 0")), "", errdefs.ErrFailedPrecondition, "is still there"},
		"crun that has gone":   {crun(&options.Options{BinaryName: "/nowhere/crun", Root: engine(t, "").Root}), "", os.ErrNotExist, "/nowhere/crun"},
	} {
		t.Run(name, func(t *testing.T) {
			e := left(t, tc.change)
			if tc.inside != "" {
				require.NoError(t, os.MkdirAll(filepath.Join(string(e.dir), tc.inside), 0o700))
			}
			_, err := again(t, e)
			require.ErrorContains(t, err, string(e.dir)+" is of an earlier container: ")
			require.ErrorContains(t, err, tc.want)
			if tc.kind != nil {
				require.ErrorIs(t, err, tc.kind)
			}
			_, err = e.dir.Read()
			require.NoError(t, err, "the record stays")
		})
	}
}
