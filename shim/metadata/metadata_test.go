package metadata

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// containers is containerd's service with one container.
type containers struct {
	containersapi.ContainersServer
	has *containersapi.Container
}

func (s *containers) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	if ns, _ := namespaces.Namespace(ctx); ns != "ns" || r.ID != s.has.ID {
		return nil, status.Errorf(codes.NotFound, "container %q in namespace %q: not found", r.ID, ns)
	}
	return &containersapi.GetContainerResponse{Container: s.has}, nil
}

// containerd serves with gRPC's own library.
func containerd(t *testing.T, has *containersapi.Container) string {
	t.Helper()
	address := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	require.NoError(t, err)
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, &containers{has: has})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); assert.NoError(t, <-done) })
	return address
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestGet(t *testing.T) {
	has := &containersapi.Container{ID: "c", Image: "docker.io/library/nginx:1", Labels: map[string]string{"a": "ü", "b": strings.Repeat("x", 1<<20)}}
	address := containerd(t, has)
	for _, a := range []string{address, "unix://" + address} {
		got, err := Get(soon(t), a, "ns", "c")
		require.NoError(t, err)
		assert.Equal(t, &Container{Image: has.Image, Labels: has.Labels}, got)
	}
}

func TestGetFails(t *testing.T) {
	address := containerd(t, &containersapi.Container{ID: "c", Labels: map[string]string{"a": strings.Repeat("x", maxAnswer)}})
	_, err := Get(soon(t), address, "ns", "other")
	assert.ErrorContains(t, err, `gRPC status "5": container "other" in namespace "ns": not found`)
	_, err = Get(soon(t), address, "ns", "c")
	assert.ErrorContains(t, err, "the answer is too long")
	_, err = Get(soon(t), address+"x", "ns", "c")
	assert.ErrorContains(t, err, "no such file")
}

// A containerd that does not answer holds nobody up for longer than the deadline.
func TestGetGivesUp(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Get(ctx, address, "ns", "c")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// Answers that only a broken server gives.
func TestAnswersThatAreNoMessage(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":    "",
		"no prefix":  "\x00\x00",
		"compressed": "\x01\x00\x00\x00\x02hi",
		"too short":  "\x00\x00\x00\x00\x03hi",
		"two":        "\x00\x00\x00\x00\x01h\x00\x00\x00\x00\x01i",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := message([]byte(body), http.Header{}, http.Header{"Grpc-Status": {"0"}})
			assert.ErrorContains(t, err, "not one message")
		})
	}
	_, err := message([]byte("\x00\x00\x00\x00\x02hi"), http.Header{}, http.Header{})
	assert.ErrorContains(t, err, `gRPC status ""`)
	answer, err := message([]byte("\x00\x00\x00\x00\x02hi"), http.Header{}, http.Header{"Grpc-Status": {"0"}})
	require.NoError(t, err)
	assert.Equal(t, "hi", string(answer))
}
