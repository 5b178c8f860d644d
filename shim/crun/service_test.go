package crun

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hooked is a spec whose poststop hook keeps the state that it gets.
func hooked(state string) *specs.Spec {
	return &specs.Spec{
		Version: "1.3.0", Annotations: map[string]string{"k": "v"},
		Hooks: &specs.Hooks{Poststop: []specs.Hook{
			{Path: "/bin/false"}, // the others run all the same
			{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + state}},
		}},
	}
}

func TestPoststopHooksRunWhenCreateFails(t *testing.T) {
	engine, state := fakeEngine(t, crunVersion), filepath.Join(t.TempDir(), "state")
	ctx, s, r := newService(t, Options{Binary: engine})
	bundle := newBundle(t, hooked(state))
	_, err := s.Create(ctx, &task.CreateTaskRequest{ID: "c1", Bundle: bundle})
	assert.ErrorContains(t, err, "the fake can not do it")

	var got specs.State
	b, err := os.ReadFile(state)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, specs.State{
		Version: "1.1.0", ID: "c1", Status: specs.StateStopped, Bundle: bundle, Annotations: map[string]string{"k": "v"},
	}, got)
	calls := callsOf(t, engine)
	require.Len(t, calls, 2)
	assert.Contains(t, calls[1], "--root /run/containerd/runc/test ")
	require.NoError(t, s.Close(ctx))
	assert.Empty(t, r.events())
}

func TestPoststopHooksAreLeftToOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		version string
		prepare func(t *testing.T, root string, r *task.CreateTaskRequest)
	}{
		"when the engine runs them itself": {"runc version 1.1.5\n", nil},
		"when the engine was not started": {crunVersion, func(t *testing.T, _ string, r *task.CreateTaskRequest) {
			r.Stdout = "unknown:///scheme"
		}},
		"when the container exists for the engine": {crunVersion, func(t *testing.T, root string, r *task.CreateTaskRequest) {
			require.NoError(t, os.MkdirAll(filepath.Join(root, "test", r.ID), 0o700))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			state, root := filepath.Join(t.TempDir(), "state"), t.TempDir()
			ctx, s, _ := newService(t, Options{Binary: fakeEngine(t, tc.version), Root: root})
			r := &task.CreateTaskRequest{ID: "c1", Bundle: newBundle(t, hooked(state))}
			if tc.prepare != nil {
				tc.prepare(t, root, r)
			}
			_, err := s.Create(ctx, r)
			assert.Error(t, err)
			assert.NoFileExists(t, state)
			require.NoError(t, s.Close(ctx))
		})
	}
}

func TestPoststopHooksRunForACallerWhoHasGone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	b, err := loadBundle(newBundle(t, hooked(state)))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.path, "log.json"), nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.poststop(ctx, "c1", t.TempDir())
	assert.FileExists(t, state)
}

func TestCreateHandsTheEngineWhatItUnderstands(t *testing.T) {
	engine := fakeEngine(t, crunVersion)
	ctx, s, _ := newService(t, Options{Binary: "/nowhere/crun"})
	opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: engine, Root: "/run/mine", SystemdCgroup: true})
	require.NoError(t, err)
	r := &task.CreateTaskRequest{ID: "c1", Bundle: newBundle(t, &specs.Spec{Version: "1.3.0"}), Options: opts}
	_, err = s.Create(ctx, r)
	assert.Error(t, err)
	assert.Same(t, opts, r.Options, "the request stays as it was")
	create := callsOf(t, engine)[1]
	for _, want := range []string{"--root /run/mine/test ", " --systemd-cgroup create --bundle " + r.Bundle, " c1"} {
		assert.Contains(t, create, want)
	}
	b, err := loadBundle(r.Bundle)
	require.NoError(t, err)
	assert.Equal(t, "1.1.0", b.config.Version)
	require.NoError(t, s.Close(ctx))
}

func TestCreateRefuses(t *testing.T) {
	ctx, s, _ := newService(t, Options{Binary: "/nowhere/crun"})
	opts, err := typeurl.MarshalAnyToProto(&task.CreateTaskRequest{})
	require.NoError(t, err)
	good := newBundle(t, &specs.Spec{Version: "1.0.2"})
	for name, tc := range map[string]struct {
		r    *task.CreateTaskRequest
		kind func(error) bool
	}{
		"a bundle that is not there": {&task.CreateTaskRequest{Bundle: "/nowhere"}, errdefs.IsUnknown},
		"options of another type":    {&task.CreateTaskRequest{Bundle: good, Options: opts}, errdefs.IsInvalidArgument},
		"an engine that is missing":  {&task.CreateTaskRequest{Bundle: good}, errdefs.IsFailedPrecondition},
	} {
		_, err := s.Create(ctx, tc.r)
		assert.True(t, tc.kind(errgrpc.ToNative(err)), "%s: %v", name, err)
	}
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: "c1"})
	assert.True(t, errdefs.IsNotFound(errgrpc.ToNative(err)))
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: "c1", ExecID: "e"})
	assert.True(t, errdefs.IsNotFound(errgrpc.ToNative(err)))
	require.NoError(t, s.Close(ctx), "waits for no event of a delete that failed")
}

func TestAFailedCreateLeavesNoCgroup(t *testing.T) {
	for name, tc := range map[string]struct {
		path  string
		there bool
		left  bool
	}{
		"made by the engine": {path: "/ns/c1"},
		"there before":       {path: "/ns/c1", there: true, left: true},
		"not by that path":   {path: "ns/c1", left: true},
	} {
		t.Run(name, func(t *testing.T) {
			engine := fakeEngine(t, "crun version 1.21\n")
			ctx, s, _ := newService(t, Options{Binary: engine})
			dir := filepath.Join(s.cgroupRoot, "ns/c1")
			if tc.there {
				require.NoError(t, os.MkdirAll(dir, 0o755))
			}
			require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(engine), fakeCgroup), []byte(dir), 0o600))
			spec := &specs.Spec{Version: "1.0.2", Linux: &specs.Linux{CgroupsPath: tc.path}}
			_, err := s.Create(ctx, &task.CreateTaskRequest{ID: "c1", Bundle: newBundle(t, spec)})
			assert.Error(t, err)
			assert.Equal(t, tc.left, exists(dir))
			assert.DirExists(t, filepath.Dir(dir), "what is not the container's")
			require.NoError(t, s.Close(ctx))
		})
	}
}

func TestShutdownOfTheServiceEndsNothing(t *testing.T) {
	ctx, s, _ := newService(t, Options{})
	_, err := s.Shutdown(ctx, &task.ShutdownRequest{Now: true})
	require.NoError(t, err)
	select {
	case <-s.shutdown.Done():
		require.FailNow(t, "the service has ended")
	case <-s.order.drained:
		require.FailNow(t, "the service publishes no more")
	default:
	}
	assert.NoError(t, s.shutdown.Err())
	require.NoError(t, s.Close(ctx))
	assert.ErrorIs(t, s.shutdown.Err(), shutdown.ErrShutdown)
	require.NoError(t, s.Close(ctx), "again")
}

func TestCloseReportsWhatFails(t *testing.T) {
	ctx, s, _ := newService(t, Options{})
	failure := errors.New("callback")
	s.shutdown.RegisterCallback(func(context.Context) error { return failure })
	s.order.expectDelete("c1") // and no event comes
	ended, cancel := context.WithCancel(ctx)
	cancel()
	err := s.Close(ended)
	assert.True(t, errors.Is(err, context.Canceled) || errors.Is(err, failure), "%v", err)
	<-s.order.drained
	s.order.deleteFailed("c1")
	assert.ErrorIs(t, s.Close(ctx), failure)
	assert.ErrorIs(t, s.shutdown.Err(), failure)
}
