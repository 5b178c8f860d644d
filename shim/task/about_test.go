package task

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
)

// fakeContainerd knows one container.
type fakeContainerd struct {
	containersapi.ContainersServer
	has containersapi.Container
}

func (f *fakeContainerd) Get(context.Context, *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	return &containersapi.GetContainerResponse{Container: &f.has}, nil
}

func (f *fakeContainerd) serve(t *testing.T) (address string) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	require.NoError(t, err)
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); assert.NoError(t, <-done) })
	return address
}

func TestProxmoxIsToldWhatContainerdKnows(t *testing.T) {
	containerd := &fakeContainerd{has: containersapi.Container{Image: "from-containerd", Labels: map[string]string{
		labelPod: "web", labelPodSpace: "shop", labelStopSignal: "SIGQUIT",
	}}}
	address := containerd.serve(t)
	inPod := map[string]string{annotationImage: "nginx:1", annotationPod: "p", annotationPodSpace: "default", annotationStopSignal: "SIGINT"}
	ofPod := lxc.Told{About: pve.About{Namespace: "ns", ID: "c", Image: "nginx:1", Pod: "default/p"}, Halt: "SIGINT"}
	for name, tc := range map[string]struct {
		address     string
		annotations map[string]string
		want        lxc.Told
	}{
		"annotations":        {address, inPod, ofPod},
		"labels":             {address, nil, lxc.Told{About: pve.About{Namespace: "ns", ID: "c", Image: "from-containerd", Pod: "shop/web"}, Halt: "SIGQUIT"}},
		"annotations first":  {address, map[string]string{annotationPod: "p", annotationPodSpace: "default", annotationStopSignal: "3"}, lxc.Told{About: pve.About{Namespace: "ns", ID: "c", Image: "from-containerd", Pod: "default/p"}, Halt: "3"}},
		"nobody answers":     {address + "x", nil, lxc.Told{About: pve.About{Namespace: "ns", ID: "c"}, Halt: "SIGTERM"}},
		"address is unknown": {"", inPod, ofPod},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s, _ := newTestService(t)
			s.options.Address = tc.address
			e := newEntry(t, nil, "c", nil)
			e.spec = &specs.Spec{Annotations: tc.annotations}
			told := s.told(ctx, e)
			assert.Equal(t, tc.want, told())
			assert.Equal(t, tc.want, told(), "again")
		})
	}
}
