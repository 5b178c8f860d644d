package task

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeBackend answers what the tests need.
type fakeBackend struct {
	backend
	deleteErr error
}

func (f *fakeBackend) Delete(context.Context, *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	return &taskAPI.DeleteResponse{Pid: 7, ExitStatus: 3}, f.deleteErr
}

func (f *fakeBackend) Start(_ context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	return &taskAPI.StartResponse{Pid: uint32(len(r.ExecID))}, nil
}

func (f *fakeBackend) Connect(context.Context, *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	return &taskAPI.ConnectResponse{ShimPid: 1, TaskPid: 2}, nil
}

func TestEveryCallForAnUnknownContainerIsNotFound(t *testing.T) {
	_, s, _ := newTestService(t)
	api := reflect.TypeFor[taskAPI.TTRPCTaskService]()
	for i := range api.NumMethod() {
		m := api.Method(i)
		switch m.Name {
		case "Create", "Connect", "Shutdown":
			continue
		}
		request := reflect.New(m.Type.In(1).Elem())
		request.Elem().FieldByName("ID").SetString("c1")
		out := reflect.ValueOf(s).MethodByName(m.Name).Call([]reflect.Value{reflect.ValueOf(t.Context()), request})
		err, _ := out[1].Interface().(error)
		assert.Equal(t, codes.NotFound, status.Code(err), m.Name)
		assert.ErrorContains(t, err, "container not created", m.Name)
	}
}

func TestCallsGoToTheBackendOfTheContainer(t *testing.T) {
	ctx, s, _ := newTestService(t)
	newEntry(t, s, "c1", &fakeBackend{})
	resp, err := s.Start(ctx, &taskAPI.StartRequest{ID: "c1", ExecID: "four"})
	require.NoError(t, err)
	assert.EqualValues(t, 4, resp.Pid)
	who, err := s.Connect(ctx, &taskAPI.ConnectRequest{ID: "c1"})
	require.NoError(t, err)
	assert.EqualValues(t, 2, who.TaskPid)
	who, err = s.Connect(ctx, &taskAPI.ConnectRequest{ID: "x"})
	require.NoError(t, err)
	assert.EqualValues(t, os.Getpid(), who.ShimPid, "containerd asks before Create")
}

func TestDeleteForgetsTheContainerAndItsRecord(t *testing.T) {
	ctx, s, _ := newTestService(t)
	failing := errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "it runs")
	b := &fakeBackend{deleteErr: failing}
	e := newEntry(t, s, "c1", b)
	_, err := s.Delete(ctx, &taskAPI.DeleteRequest{ID: "c1"})
	require.Equal(t, failing, err)
	require.DirExists(t, string(e.dir))

	b.deleteErr = nil
	_, err = s.Delete(ctx, &taskAPI.DeleteRequest{ID: "c1", ExecID: "e"})
	require.NoError(t, err)
	require.DirExists(t, string(e.dir), "only an exec was deleted")
	require.Same(t, e, s.entry("c1"))

	resp, err := s.Delete(ctx, &taskAPI.DeleteRequest{ID: "c1"})
	require.NoError(t, err)
	assert.EqualValues(t, 3, resp.ExitStatus)
	assert.Nil(t, s.entry("c1"))
	assert.NoDirExists(t, string(e.dir))
	assert.FileExists(t, filepath.Join(e.state.Bundle, deletedFile))
}

func TestShutdownIsForTheLastContainer(t *testing.T) {
	ctx, s, _ := newTestService(t)
	ended := endings(s)
	newEntry(t, s, "c1", &fakeBackend{})
	newEntry(t, s, "c2", &fakeBackend{})
	for _, id := range []string{"c1", "c2"} {
		assert.Zero(t, *ended)
		_, err := s.Delete(ctx, &taskAPI.DeleteRequest{ID: id})
		require.NoError(t, err)
		assert.Zero(t, *ended, "containerd asks, and is answered first")
		_, err = s.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: id})
		require.NoError(t, err)
	}
	assert.Equal(t, 1, *ended)
}

// endings counts how often the service ends the shim.
func endings(s *Service) *int {
	n := new(int)
	s.options.Shutdown = func(bool) bool { *n++; return true }
	return n
}

func TestACreateThatFailsLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		config string
		id     string
		kind   error
		want   string
	}{
		"no helper":            {"[routing]\ndefault_backend = \"lxc\"\n[lxc]\nhelper = \"/nowhere/init\"", "c1", errdefs.ErrFailedPrecondition, "no helper"},
		"no engine":            {"[routing]\ndefault_backend = \"crun\"\n[crun]\npath = \"/nowhere/crun\"", "c1", errdefs.ErrFailedPrecondition, "/nowhere/crun"},
		"bad configuration":    {"colour = 1", "c1", errdefs.ErrInvalidArgument, "colour"},
		"id that is no name":   {"", "../c1", errdefs.ErrInvalidArgument, "../c1"},
		"id with another form": {"", "/", errdefs.ErrInvalidArgument, `"/"`},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s, p := newTestService(t)
			stateDir := filepath.Join(t.TempDir(), "run")
			bundle := newBundle(t, &specs.Spec{Version: "1.2.0"})
			_, err := s.Create(ctx, &taskAPI.CreateTaskRequest{ID: tc.id, Bundle: bundle, Options: optionsWith(t, stateDir, tc.config)})
			require.Error(t, err)
			answer, ok := status.FromError(err)
			require.True(t, ok)
			assert.ErrorIs(t, errgrpc.ToNative(err), tc.kind)
			assert.Contains(t, answer.Message(), tc.want)
			assert.NotContains(t, answer.Message(), "rpc error", "the text is the backend's")
			assert.Nil(t, s.entry(tc.id))
			assert.NoDirExists(t, filepath.Join(stateDir, "ns", "c1"))
			entries, err := os.ReadDir(bundle)
			require.NoError(t, err)
			assert.Len(t, entries, 1, "config.json")
			assert.Empty(t, p.got())
		})
	}
}

func TestAnIDIsTakenOnce(t *testing.T) {
	ctx, s, _ := newTestService(t)
	e := newEntry(t, s, "c1", &fakeBackend{})
	_, err := s.Create(ctx, &taskAPI.CreateTaskRequest{
		ID: "c1", Bundle: newBundle(t, &specs.Spec{Version: "1.2.0"}), Options: optionsWith(t, t.TempDir(), ""),
	})
	assert.Equal(t, codes.AlreadyExists, status.Code(err))
	assert.Same(t, e, s.entry("c1"))
}
