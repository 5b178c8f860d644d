package integration

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecExec runs the rows about process once more, with the process of an
// exec: what is true of a container's first process is true of others.
func TestSpecExec(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, r := range slices.Concat(processRows, processAttributeRows) {
			if r.exec() {
				t.Run(r.name, func(t *testing.T) { r.testExec(t, w, rt) })
			}
		}
	})
}

// exec says whether a row is about a process alone.
func (r row) exec() bool {
	for _, f := range r.fields {
		if !strings.HasPrefix(f, "process.") {
			return false
		}
	}
	return r.refused == "" && !r.looksAtExecs
}

func (r row) testExec(t *testing.T, w *place, rt harness.Runtime) {
	r.execFlaw.skip(t, rt)
	r.mayRun(t, rt)
	if missing := lacks(r.needs); missing != "" {
		t.Skipf("this machine lacks %s", missing)
	}
	logged(t, w)
	leaveNothing(t, w)
	base := row{name: "exec-" + r.name, fields: r.fields}
	base.look = func(x *shown) { r.showExec(x) }
	base.show(base.container(t, w, rt))
}

// showExec runs the row's process beside the container's own.
func (r row) showExec(of *shown) {
	args := r.args
	if args == nil {
		args = lasting
	}
	p, err := of.Process(of.ctx, args...)
	require.NoError(of.t, err)
	first := *of.Container
	x := &shown{script: &script{Container: &first, t: of.t, ctx: of.ctx, place: of.place, stdio: &harness.Stdio{}}, dir: of.dir}
	if r.spec != nil {
		r.spec(x, &specs.Spec{Process: p, Linux: &specs.Linux{}})
	}
	if x.stdio.Terminal = p.Terminal; p.Terminal {
		x.stdio.Stdin = newGate()
	}
	const id = "shown"
	require.NoError(x.t, of.Exec(x.ctx, id, p, x.stdio))
	first.Pid, err = of.Start(x.ctx, id)
	require.NoError(x.t, err)
	if r.args == nil {
		x.awaitOut(x.stdio, "runs\n")
		r.look(x)
		require.NoError(x.t, of.Kill(x.ctx, id, uint32(unix.SIGKILL), false))
	}
	status, _, err := of.Wait(x.ctx, id)
	require.NoError(x.t, err)
	require.NoError(x.t, x.stdio.Wait(x.ctx))
	if r.args != nil {
		assert.Equal(x.t, r.want, x.stdio.Out(), "what the process sees")
		assert.Equal(x.t, r.status, status, "exit status; stderr: %s", x.stdio.Err())
	}
	_, err = of.Delete(x.ctx, id)
	require.NoError(x.t, err)
}
