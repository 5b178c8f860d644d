package shim

import (
	"context"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// calledTask answers every call with what it was called with.
type calledTask struct{ got []string }

func noted[A proto.Message](s *calledTask, name string, r interface{ GetID() string }, answer A) (A, error) {
	s.got = append(s.got, name+" "+r.GetID())
	if r.GetID() == "missing" {
		return answer, errgrpc.ToGRPCf(errdefs.ErrNotFound, "container not created")
	}
	return answer, nil
}

func (s *calledTask) State(_ context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	return noted(s, "State", r, &taskAPI.StateResponse{Pid: 1})
}

func (s *calledTask) Create(_ context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	return noted(s, "Create", r, &taskAPI.CreateTaskResponse{Pid: 2})
}

func (s *calledTask) Start(_ context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	return noted(s, "Start", r, &taskAPI.StartResponse{Pid: 3})
}

func (s *calledTask) Delete(_ context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	return noted(s, "Delete", r, &taskAPI.DeleteResponse{ExitStatus: 4})
}

func (s *calledTask) Pids(_ context.Context, r *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	return noted(s, "Pids", r, &taskAPI.PidsResponse{})
}

func (s *calledTask) Pause(_ context.Context, r *taskAPI.PauseRequest) (*emptypb.Empty, error) {
	return noted(s, "Pause", r, &emptypb.Empty{})
}

func (s *calledTask) Resume(_ context.Context, r *taskAPI.ResumeRequest) (*emptypb.Empty, error) {
	return noted(s, "Resume", r, &emptypb.Empty{})
}

func (s *calledTask) Checkpoint(_ context.Context, r *taskAPI.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return noted(s, "Checkpoint", r, &emptypb.Empty{})
}

func (s *calledTask) Kill(_ context.Context, r *taskAPI.KillRequest) (*emptypb.Empty, error) {
	return noted(s, "Kill", r, &emptypb.Empty{})
}

func (s *calledTask) Exec(_ context.Context, r *taskAPI.ExecProcessRequest) (*emptypb.Empty, error) {
	return noted(s, "Exec", r, &emptypb.Empty{})
}

func (s *calledTask) ResizePty(_ context.Context, r *taskAPI.ResizePtyRequest) (*emptypb.Empty, error) {
	return noted(s, "ResizePty", r, &emptypb.Empty{})
}

func (s *calledTask) CloseIO(_ context.Context, r *taskAPI.CloseIORequest) (*emptypb.Empty, error) {
	return noted(s, "CloseIO", r, &emptypb.Empty{})
}

func (s *calledTask) Update(_ context.Context, r *taskAPI.UpdateTaskRequest) (*emptypb.Empty, error) {
	return noted(s, "Update", r, &emptypb.Empty{})
}

func (s *calledTask) Wait(_ context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	return noted(s, "Wait", r, &taskAPI.WaitResponse{ExitStatus: 5})
}

func (s *calledTask) Stats(_ context.Context, r *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	return noted(s, "Stats", r, &taskAPI.StatsResponse{})
}

func (s *calledTask) Connect(_ context.Context, r *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	return noted(s, "Connect", r, &taskAPI.ConnectResponse{ShimPid: 6, Version: "v"})
}

func (s *calledTask) Shutdown(_ context.Context, r *taskAPI.ShutdownRequest) (*emptypb.Empty, error) {
	return noted(s, "Shutdown", r, &emptypb.Empty{})
}

// connect serves s and returns a client of it.
func connect(t *testing.T, s taskAPI.TTRPCTaskService) *ttrpc.Client {
	t.Helper()
	server, err := ttrpc.NewServer()
	require.NoError(t, err)
	registerTask(server, s)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), listener) }()
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, ttrpc.ErrServerClosed)
	})
	return client
}

var taskServices = []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}

func TestBothVersionsServeEveryMethod(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	api := reflect.TypeFor[taskAPI.TTRPCTaskService]()
	require.Equal(t, 17, api.NumMethod())
	for _, service := range taskServices {
		t.Run(service, func(t *testing.T) {
			called := &calledTask{}
			client := connect(t, called)
			for i := range api.NumMethod() {
				m := api.Method(i)
				request := reflect.New(m.Type.In(1).Elem())
				request.Elem().FieldByName("ID").SetString("c1")
				got := reflect.New(m.Type.Out(0).Elem())
				require.NoError(t, client.Call(t.Context(), service, m.Name, request.Interface(), got.Interface()), m.Name)
				want := reflect.ValueOf(called).MethodByName(m.Name).Call([]reflect.Value{reflect.ValueOf(t.Context()), request})[0]
				assert.True(t, proto.Equal(want.Interface().(proto.Message), got.Interface().(proto.Message)), m.Name)
				assert.Equal(t, m.Name+" c1", called.got[2*i])
			}
		})
	}
}

func TestErrorsKeepTheirClass(t *testing.T) {
	for _, service := range taskServices {
		client := connect(t, &calledTask{})
		err := client.Call(t.Context(), service, "Start", &taskAPI.StartRequest{ID: "missing"}, &taskAPI.StartResponse{})
		native := errgrpc.ToNative(err)
		assert.ErrorIs(t, native, errdefs.ErrNotFound)
		assert.ErrorContains(t, native, "container not created")
	}
}

func TestWhatIsNotInTheAPIIsUnimplemented(t *testing.T) {
	client := connect(t, &calledTask{})
	for _, call := range [][2]string{{"containerd.task.v1.Task", "State"}, {taskServices[0], "Destroy"}} {
		err := client.Call(t.Context(), call[0], call[1], &taskAPI.StateRequest{}, &taskAPI.StateResponse{})
		assert.ErrorIs(t, errgrpc.ToNative(err), errdefs.ErrNotImplemented, "%v", call)
	}
}
