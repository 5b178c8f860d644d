package task

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

func TestWhatAnEventSaysOfTheState(t *testing.T) {
	at := time.Unix(5, 6).UTC()
	exit := func(id string) *eventstypes.TaskExit {
		return &eventstypes.TaskExit{ContainerID: "c1", ID: id, Pid: 7, ExitStatus: 3, ExitedAt: protobuf.ToTimestamp(at)}
	}
	was := state.State{Status: "was", PID: 7}
	for name, tc := range map[string]struct {
		event any
		want  *state.State // nil: nothing
	}{
		"create":         {&eventstypes.TaskCreate{ContainerID: "c1", Pid: 9}, &state.State{Status: "created", PID: 9}},
		"start":          {&eventstypes.TaskStart{ContainerID: "c1", Pid: 7}, &state.State{Status: "running", PID: 7}},
		"paused":         {&eventstypes.TaskPaused{ContainerID: "c1"}, &state.State{Status: "paused", PID: 7}},
		"resumed":        {&eventstypes.TaskResumed{ContainerID: "c1"}, &state.State{Status: "running", PID: 7}},
		"exit":           {exit("c1"), &state.State{Status: "stopped", PID: 7, Exit: &state.Exit{Status: 3, At: at}}},
		"exit of exec":   {exit("e"), nil},
		"exec added":     {&eventstypes.TaskExecAdded{ContainerID: "c1", ExecID: "e"}, nil},
		"exec started":   {&eventstypes.TaskExecStarted{ContainerID: "c1", ExecID: "e", Pid: 8}, nil},
		"oom":            {&eventstypes.TaskOOM{ContainerID: "c1"}, nil},
		"delete":         {&eventstypes.TaskDelete{ContainerID: "c1"}, nil},
		"something else": {"text", nil},
	} {
		t.Run(name, func(t *testing.T) {
			id, change := changeBy(tc.event)
			if tc.want == nil {
				assert.Nil(t, change)
				return
			}
			got := was
			change(&got)
			assert.Equal(t, "c1", id)
			assert.Equal(t, *tc.want, got)
		})
	}
}

func TestEventsAreRecordedAndPassedOn(t *testing.T) {
	ctx, s, p := newTestService(t)
	e := newEntry(t, s, "c1", nil)
	r := recorder{s}
	require.NoError(t, r.Publish(ctx, "create", &eventstypes.TaskCreate{ContainerID: "c1", Pid: 9}))
	st, err := e.dir.Read()
	require.NoError(t, err)
	assert.Equal(t, "created", st.Status)
	assert.Equal(t, 9, st.PID)
	require.NoError(t, r.Publish(ctx, "exit", &eventstypes.TaskExit{ContainerID: "c1", ID: "c1", ExitStatus: 3}))
	st, err = e.dir.Read()
	require.NoError(t, err)
	assert.Equal(t, "stopped", st.Status)
	assert.Equal(t, 3, st.Exit.Status)

	require.NoError(t, r.Publish(ctx, "unknown", &eventstypes.TaskStart{ContainerID: "x"}))
	require.NoError(t, os.RemoveAll(string(e.dir)))
	require.NoError(t, r.Publish(ctx, "no record", &eventstypes.TaskPaused{ContainerID: "c1"}))
	assert.Equal(t, []string{"create", "exit", "unknown", "no record"}, p.got())
}

// The exit of a container may be published while it is being deleted.
func TestALateEventDoesNotBringTheRecordBack(t *testing.T) {
	for range 20 {
		ctx, s, p := newTestService(t)
		e := newEntry(t, s, "c1", nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 5 {
				assert.NoError(t, recorder{s}.Publish(ctx, "exit", &eventstypes.TaskExit{ContainerID: "c1", ID: "c1"}))
			}
		})
		wg.Go(func() { assert.NoError(t, e.deleted(&taskAPI.DeleteResponse{})) })
		wg.Wait()
		assert.NoDirExists(t, string(e.dir))
		assert.NoError(t, e.update(func(*state.State) { t.Error("changed") }))
		assert.Len(t, p.got(), 5)
	}
}

func TestTheRecordIsMadeWholeOrNotAtAll(t *testing.T) {
	dir, err := state.DirOf(filepath.Join(t.TempDir(), "run"), "ns", "c1")
	require.NoError(t, err)
	e := &entry{dir: dir, state: state.State{ID: "c1"}}
	assert.ErrorIs(t, e.make("/nowhere"), os.ErrNotExist)
	assert.NoDirExists(t, string(dir))

	bundle := t.TempDir()
	e = &entry{dir: dir, state: state.State{ID: "c1"}}
	require.NoError(t, e.make(bundle))
	target, err := os.Readlink(filepath.Join(bundle, stateLink))
	require.NoError(t, err)
	assert.Equal(t, string(dir), target)
	assert.ErrorIs(t, (&entry{dir: dir}).make(t.TempDir()), errdefs.ErrAlreadyExists)
	assert.DirExists(t, string(dir), "of the one who has it")

	require.NoError(t, e.remove(bundle))
	assert.NoDirExists(t, string(dir))
	entries, err := os.ReadDir(bundle)
	require.NoError(t, err)
	assert.Empty(t, entries)
}

func TestABundleThatHasGoneNeedsNoNote(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	require.NoError(t, os.RemoveAll(e.state.Bundle))
	require.NoError(t, e.deleted(&taskAPI.DeleteResponse{}))
	assert.NoDirExists(t, string(e.dir))
}
