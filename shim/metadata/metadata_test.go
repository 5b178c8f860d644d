package metadata

import (
	"bytes"
	"context"
	"io"
	"net"
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
	_, err = Get(context.Background(), address, "ns", "c")
	assert.ErrorContains(t, err, "without deadline")
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
	assert.ErrorContains(t, err, "i/o timeout")
}

func TestFramesThatAreNoAnswer(t *testing.T) {
	end := byte(flagEndStream | flagEndHeaders)
	for name, frames := range map[string][]byte{
		"nothing":            nil,
		"no status":          appendFrame(nil, frameData, flagEndStream, streamID, []byte{0, 0, 0, 0, 0}),
		"reset":              appendFrame(nil, frameReset, 0, streamID, []byte{0, 0, 0, 7}),
		"goodbye":            appendFrame(nil, frameGoAway, 0, 0, make([]byte, 8)),
		"padding alone":      appendFrame(nil, frameData, flagPadded, streamID, []byte{1}),
		"empty padding":      appendFrame(nil, frameData, flagPadded, streamID, nil),
		"short priority":     appendFrame(nil, frameHeaders, end|flagPriority, streamID, []byte{1}),
		"bad headers":        appendFrame(nil, frameHeaders, end, streamID, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
		"too long":           append([]byte{0xff, 0xff, 0xff}, make([]byte, headSize-3)...),
		"headers without it": appendFrame(nil, frameHeaders, end, streamID, []byte{0x88}), // :status: 200
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newStream(readWriter(frames)).answer()
			assert.Error(t, err)
		})
	}
}

// A server may pad, and cut headers into pieces.
func TestFramesOfOtherServers(t *testing.T) {
	trailers := []byte("\x00\x0bgrpc-status\x010")
	frames := appendFrame(nil, frameSettings, 0, 0, nil)
	frames = appendFrame(frames, framePing, 0, 0, make([]byte, 8))
	frames = appendFrame(frames, frameData, flagPadded, streamID, []byte("\x02\x00\x00\x00\x00\x02h\x00\x00"))
	frames = appendFrame(frames, frameData, 0, streamID, []byte("i"))
	frames = appendFrame(frames, frameHeaders, flagEndStream|flagPriority, streamID, append(make([]byte, 5), trailers[:4]...))
	frames = appendFrame(frames, frameContinuation, flagEndHeaders, streamID, trailers[4:])
	conn := readWriter(frames)
	answer, err := newStream(conn).answer()
	require.NoError(t, err)
	assert.Equal(t, "hi", string(answer))
	want := appendFrame(appendFrame(nil, frameSettings, flagAck, 0, nil), framePing, flagAck, 0, make([]byte, 8))
	assert.Equal(t, want, conn.Writer.(*bytes.Buffer).Bytes())
}

func readWriter(frames []byte) struct {
	io.Reader
	io.Writer
} {
	return struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(frames), &bytes.Buffer{}}
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendFrame(nil, frameData, flagPadded|flagEndStream, streamID, []byte("\x02\x00\x00\x00\x00\x01h\x00\x00")))
	f.Add(appendFrame(nil, frameHeaders, flagEndStream|flagEndHeaders, streamID, []byte("\x00\x0bgrpc-status\x010")))
	f.Fuzz(func(t *testing.T, frames []byte) {
		answer, err := newStream(readWriter(frames)).answer()
		if err == nil {
			assert.LessOrEqual(t, len(answer), maxAnswer)
		}
	})
}
