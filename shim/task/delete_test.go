package task

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

func TestADeletedTaskIsNotDeletedAgain(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	at := time.Unix(5, 6).UTC()
	require.NoError(t, e.deleted(&taskAPI.DeleteResponse{Pid: 7, ExitStatus: 3, ExitedAt: protobuf.ToTimestamp(at)}))
	assert.NoDirExists(t, string(e.dir))
	// A container with the same name has come meanwhile.
	require.NoError(t, e.dir.Make())
	require.NoError(t, e.dir.Write(&e.state))

	got, err := Delete(t.Context(), "ns", "c1", e.state.Bundle)
	require.NoError(t, err)
	assert.Equal(t, Stopped{PID: 7, Status: 3, At: at}, got)
	assert.DirExists(t, string(e.dir), "it is left alone")
}

func TestTheNoteOfADeletedTaskIsWholeOrAbsent(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	require.NoError(t, e.deleted(&taskAPI.DeleteResponse{}))
	entries, err := os.ReadDir(e.state.Bundle)
	require.NoError(t, err)
	require.Len(t, entries, 2, "the note and the link, nothing temporary")
	st, err := os.Stat(filepath.Join(e.state.Bundle, deletedFile))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode())

	require.NoError(t, os.WriteFile(filepath.Join(e.state.Bundle, deletedFile), []byte(`{"pid":`), 0o600))
	_, err = Delete(t.Context(), "ns", "c1", e.state.Bundle)
	assert.ErrorContains(t, err, "unexpected end of JSON input")
}

func TestWhatHasLeftNothingCountsAsKilled(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T) (bundle string){
		"no bundle":          func(t *testing.T) string { return filepath.Join(t.TempDir(), "gone") },
		"never created here": func(t *testing.T) string { return t.TempDir() },
		"no state": func(t *testing.T) string {
			e := newEntry(t, nil, "c1", nil)
			require.NoError(t, e.dir.Remove())
			return e.state.Bundle
		},
		"nothing made": func(t *testing.T) string { return newEntry(t, nil, "c1", nil).state.Bundle },
	} {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			got, err := Delete(t.Context(), "ns", "c1", prepare(t))
			require.NoError(t, err)
			assert.Equal(t, 137, got.Status)
			assert.Zero(t, got.PID)
			assert.WithinRange(t, got.At, before, time.Now())
		})
	}
}

func TestDeleteTellsTheExitThatWasRecorded(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	at := time.Unix(5, 6).UTC()
	require.NoError(t, e.update(func(st *state.State) { st.PID, st.Exit = 7, &state.Exit{Status: 3, At: at} }))
	got, err := Delete(t.Context(), "ns", "c1", e.state.Bundle)
	require.NoError(t, err)
	assert.Equal(t, Stopped{PID: 7, Status: 3, At: at}, got)
	assert.NoDirExists(t, string(e.dir))
}

func TestTheStateOfAnotherContainerIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ namespace, id string }{
		"another id":        {"ns", "c2"},
		"another namespace": {"other", "c1"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEntry(t, nil, "c1", nil)
			_, err := Delete(t.Context(), tc.namespace, tc.id, e.state.Bundle)
			assert.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			assert.ErrorContains(t, err, "is of container ns/c1")
			assert.DirExists(t, string(e.dir))
		})
	}
}

func TestDeleteDestroysWhatLXCHasMade(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	base := filepath.Join(string(e.dir), "base")
	require.NoError(t, os.Mkdir(base, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(base, "init"), nil, 0o600))
	lxcPath := filepath.Join(t.TempDir(), "ns")
	require.NoError(t, os.MkdirAll(filepath.Join(lxcPath, "c1"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(lxcPath, "c1", "config"), nil, 0o600))
	require.NoError(t, e.update(func(st *state.State) {
		st.Backend = "lxc"
		st.LXC = &lxc.Record{Bundle: st.Bundle, StateDir: string(e.dir), Host: lxc.HostNative, LXCPath: lxcPath, Name: "c1"}
	}))
	got, err := Delete(t.Context(), "ns", "c1", e.state.Bundle)
	require.NoError(t, err)
	assert.Equal(t, 137, got.Status)
	assert.NoDirExists(t, string(e.dir))
	assert.NoDirExists(t, filepath.Join(lxcPath, "c1"))
}

func TestWhatCannotBeDestroyedStaysOnRecord(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	require.NoError(t, e.update(func(st *state.State) { st.Backend, st.Bundle = "crun", "/nowhere" }))
	bundle := t.TempDir()
	require.NoError(t, os.Symlink(string(e.dir), filepath.Join(bundle, stateLink)))
	_, err := Delete(t.Context(), "ns", "c1", bundle)
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = e.dir.Read()
	assert.NoError(t, err)
}
