package integration

import (
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestStatsAreThoseOfTheRuncShim gives containers of every runtime the same
// load, and compares what their shims report, message by message.
func TestStatsAreThoseOfTheRuncShim(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	want := statsUnderLoad(t, w, harness.Reference())
	for _, rt := range []harness.Runtime{harness.LXC(), harness.Crun()} {
		t.Run(rt.Name, func(t *testing.T) {
			got := statsUnderLoad(t, w, rt)
			assert.Equal(t, want.ProtoReflect().Descriptor().FullName(), got.ProtoReflect().Descriptor().FullName())
			a, b := map[string]any{}, map[string]any{}
			flatten("", want.ProtoReflect(), a)
			flatten("", got.ProtoReflect(), b)
			for path, value := range a {
				if assert.Contains(t, b, path, "the runc shim reports it") {
					compareFigure(t, path, value, b[path])
				}
			}
			for path := range b {
				assert.Contains(t, a, path, "the runc shim does not report it")
			}
		})
	}
}

// statsUnderLoad are the figures of a container that has written 8 MiB into
// its memory and used some CPU time.
func statsUnderLoad(t *testing.T, w *place, rt harness.Runtime) proto.Message {
	t.Helper()
	logged(t, w)
	leaveNothing(t, w)
	s := newScriptSpec(t, w, rt, "stats-"+rt.Name, []oci.SpecOpts{
		oci.WithMemoryLimit(64 << 20), oci.WithPidsLimit(20), oci.WithCPUCFS(90000, 100000),
	}, "sh", "-c", "dd if=/dev/zero of=/dev/shm/f bs=1M count=8 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo loaded; exec sleep 1000")
	s.create()
	s.start()
	require.NoError(t, s.last)
	s.awaitOut(s.stdio, "loaded\n")
	m, err := s.Metrics(s.ctx)
	require.NoError(t, err)
	s.kill(uint32(unix.SIGKILL))
	s.wait()
	s.delete()
	return m.(proto.Message)
}

// flatten lists the messages of a message, and their numbers. Lists are one
// value, their length: which CPUs and devices took part differs.
func flatten(path string, m protoreflect.Message, into map[string]any) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + "." + string(f.Name())
		switch {
		case f.IsList():
			into[name] = m.Get(f).List().Len() > 0
		case f.Message() != nil:
			if m.Has(f) {
				into[name] = true
				flatten(name, m.Get(f).Message(), into)
			}
		case f.Kind() == protoreflect.Uint64Kind:
			into[name] = m.Get(f).Uint()
		}
	}
}

// exact are the figures that do not depend on the moment.
var exact = map[string]bool{
	".pids.current": true, ".pids.limit": true, ".memory.usage.limit": true, ".memory.usage_limit": true, ".memory.swap_limit": true,
	".memory.hierarchical_memory_limit": true, ".memory_oom_control.oom_kill": true, ".memory_oom_control.oom_kill_disable": true,
	".memory_events.oom_kill": true, ".memory_events.oom": true,
}

// alike are figures that the load makes much larger than chance does: half of
// one and twice of it are the bounds.
var alike = map[string]bool{
	".memory.shmem": true, ".memory.cache": true, ".memory.total_cache": true, ".memory.file": true,
}

func compareFigure(t *testing.T, path string, want, got any) {
	t.Helper()
	a, number := want.(uint64)
	if !number {
		return // presence was compared
	}
	b := got.(uint64)
	switch {
	case exact[path]:
		assert.Equal(t, a, b, path)
	case alike[path]:
		assert.GreaterOrEqual(t, b, a/2, path)
		assert.LessOrEqual(t, b, a*2, path)
	case path == ".cpu.usage.total" || path == ".cpu.usage_usec" || path == ".memory.usage.usage" || path == ".memory.usage":
		assert.Positive(t, a, path)
		assert.Positive(t, b, path)
	}
}
