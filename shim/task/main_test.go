package task

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

func TestMain(m *testing.M) {
	go child.Reap(context.Background())
	os.Exit(m.Run())
}

// published is a Publisher that keeps the topics.
type published struct {
	mu     sync.Mutex
	topics []string
}

func (p *published) Publish(_ context.Context, topic string, _ events.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.topics = append(p.topics, topic)
	return nil
}

func (p *published) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.topics
}

// newTestService makes a service for the namespace ns.
func newTestService(t *testing.T) (context.Context, *Service, *published) {
	t.Helper()
	p := &published{}
	ctx := namespaces.WithNamespace(t.Context(), "ns")
	s, err := New(ctx, Options{Namespace: "ns", Publisher: p, Shutdown: func(bool) bool { return true }})
	require.NoError(t, err)
	return ctx, s, p
}

// newEntry makes a container with its record, as after Create.
func newEntry(t *testing.T, s *Service, id string, b backend) *entry {
	t.Helper()
	bundle := t.TempDir()
	dir, err := state.DirOf(filepath.Join(t.TempDir(), "run"), "ns", id)
	require.NoError(t, err)
	e := &entry{backend: b, dir: dir, created: make(chan struct{}), state: state.State{ID: id, Namespace: "ns", Status: "creating", Bundle: bundle}}
	require.NoError(t, e.make(bundle))
	if s != nil {
		require.NoError(t, s.reserve(id, e))
		require.True(t, s.settle(e))
	}
	return e
}

// newBundle writes a bundle with this config.json.
func newBundle(t *testing.T, spec *specs.Spec) string {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600))
	return dir
}

// optionsWith are runtime options with a configuration of their own.
func optionsWith(t *testing.T, stateDir, more string) *anypb.Any {
	t.Helper()
	body := fmt.Sprintf("state_dir = %q\n%s", stateDir, more)
	any, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte(body)})
	require.NoError(t, err)
	return any
}
