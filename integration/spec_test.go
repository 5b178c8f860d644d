package integration

import (
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// row shows what properties of the runtime-spec do to a real container. It
// runs with both backends, and asserts the same of them. docs/spec-coverage.md
// is made from the rows: name and fields are literals.
type row struct {
	name   string
	fields []string // paths as in oci.FieldCoverage: of a property, or of all below one

	needs []need // what the machine must have for it
	// crun is the first version of crun that knows the property: an older one
	// does not say that it does not.
	crun string
	flaw flaw // what crun does here instead
	// execFlaw is what crun does in an exec instead.
	execFlaw flaw

	// spec changes what containerd writes by default.
	spec func(x *shown, s *specs.Spec)
	// args of the process, which is waited for and must end with status, and
	// whose stdout must be want. Without args it lasts until look has seen it.
	args   []string
	want   string
	status uint32
	look   func(x *shown)
	// update asks for what spec has, of a container that runs; nil if there
	// is no such.
	update func(x *shown, r *specs.LinuxResources)
	// after the task and its container were deleted.
	after func(x *shown)

	// looksAtExecs says that the row has execs of its own, and is not run as one.
	looksAtExecs bool

	// refused is in the error with which Create fails instead.
	refused string
	// lacking is in the error of the LXC backend on a machine that has not
	// what the row needs.
	lacking string
}

// lasting says when it runs: crun's start does not wait for the execve.
var lasting = []string{"sh", "-c", "echo runs; exec sleep 1000"}

// shown is a row's container.
type shown struct {
	*script
	dir     string // of the row's own on the host
	backend string // as Runtime has it once the container is there
}

// runRows runs a table with both backends.
func runRows(t *testing.T, table []row) { newest(t, each(table)) }

func each(table []row) func(t *testing.T, w *place, rt harness.Runtime) {
	return func(t *testing.T, w *place, rt harness.Runtime) {
		for _, r := range table {
			t.Run(r.name, func(t *testing.T) { r.test(t, w, rt) })
		}
	}
}

// about finds that what a row says it is about are properties of the spec.
func (r row) about(t *testing.T) {
	t.Helper()
	require.NotEmpty(t, r.fields, r.name)
	for _, f := range r.fields {
		kind := reflect.TypeFor[specs.Spec]()
		for name := range strings.SplitSeq(f, ".") {
			kind = property(kind, strings.TrimRight(name, "[]{}"))
			require.NotNil(t, kind, "%s: %s is no property of the spec", r.name, f)
		}
	}
}

// property is the type of a property of a struct, by its name in JSON, or of
// the elements if it is a list or map.
func property(kind reflect.Type, name string) reflect.Type {
	for kind.Kind() != reflect.Struct {
		kind = kind.Elem()
	}
	for _, field := range reflect.VisibleFields(kind) {
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
			return field.Type
		}
	}
	return nil
}

// mayRun skips a row that is not for the backend.
func (r row) mayRun(t *testing.T, rt harness.Runtime) {
	t.Helper()
	r.about(t)
	r.flaw.skip(t, rt)
	if rt.Backend == "crun" && !crunKnows(t, r.crun) {
		t.Skipf("crun knows %s since %s", strings.Join(r.fields, ", "), r.crun)
	}
}

func (r row) test(t *testing.T, w *place, rt harness.Runtime) {
	r.mayRun(t, rt)
	missing := lacks(r.needs)
	if missing != "" && (r.lacking == "" || rt.Backend != "lxc") {
		t.Skipf("this machine lacks %s", missing)
	}
	logged(t, w)
	leaveNothing(t, w)
	x := r.container(t, w, rt)
	switch {
	case missing != "":
		t.Logf("this machine lacks %s: that must be said", missing)
		x.refused(r.lacking)
	case r.refused != "":
		x.refused(r.refused)
	default:
		r.show(x)
	}
}

// container makes the container of the row's spec.
func (r row) container(t *testing.T, w *place, rt harness.Runtime) *shown {
	ctx := within(t, time.Minute)
	args := r.args
	if args == nil {
		args = lasting
	}
	x := &shown{script: &script{t: t, ctx: ctx, place: w, stdio: &harness.Stdio{}}, dir: t.TempDir(), backend: rt.Backend}
	require.NoError(t, os.Chmod(x.dir, 0o755))
	change := func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if r.spec != nil {
			r.spec(x, s)
		}
		x.stdio.Terminal = s.Process.Terminal
		if s.Process.Terminal {
			x.stdio.Stdin = newGate()
		}
		return nil
	}
	c, err := w.NewContainer(ctx, rt, containerID(r.name), harness.Image, oci.WithProcessArgs(args...), change)
	require.NoError(t, err)
	x.Container = c
	return x
}

// show runs the container, and checks what it says or what can be seen of it.
func (r row) show(x *shown) {
	var removed bool
	x.t.Cleanup(func() {
		if removed {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), slow(30*time.Second))
		defer cancel()
		assert.NoError(x.t, x.Destroy(ctx), "clean up")
	})
	require.NoError(x.t, x.Create(x.ctx, x.stdio))
	_, err := x.Start(x.ctx, "")
	require.NoError(x.t, err)
	if r.args == nil {
		x.awaitOut(x.stdio, "runs\n")
	}
	if r.look != nil {
		r.look(x)
	}
	if r.args == nil {
		require.NoError(x.t, x.Kill(x.ctx, "", uint32(unix.SIGKILL), false))
	}
	status, _, err := x.Wait(x.ctx, "")
	require.NoError(x.t, err)
	require.NoError(x.t, x.stdio.Wait(x.ctx))
	if r.args != nil {
		assert.Equal(x.t, r.want, x.stdio.Out(), "what the process sees")
		assert.Equal(x.t, r.status, status, "exit status; stderr: %s", x.stdio.Err())
	}
	_, err = x.Delete(x.ctx, "")
	require.NoError(x.t, err)
	require.NoError(x.t, x.Remove(x.ctx))
	removed = true
	if r.after != nil {
		r.after(x)
	}
}

// refused wants Create to fail with an error that has text in it, which names
// the property.
func (x *shown) refused(text string) {
	x.t.Helper()
	destroyed(x.t, x.Container)
	log := logSince(x.t, x.place)
	err := x.Create(x.ctx, x.stdio)
	if !assert.Error(x.t, err) {
		return
	}
	assert.NotContains(x.t, log(), "to try again", "containerd asks once")
	if x.Runtime.Backend == "lxc" {
		assert.Contains(x.t, err.Error(), text)
	}
}

// procFile reads a file of the container's process from the host.
func (x *shown) procFile(name string) string {
	x.t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(int(x.Pid)) + "/" + name)
	require.NoError(x.t, err)
	return string(data)
}

// status is a field of /proc/PID/status.
func (x *shown) status(key string) string {
	x.t.Helper()
	for line := range strings.Lines(x.procFile("status")) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	require.Failf(x.t, "status", "has no %s", key)
	return ""
}

// limit is a line of /proc/PID/limits: soft and hard limit.
func (x *shown) limit(name string) string {
	x.t.Helper()
	for line := range strings.Lines(x.procFile("limits")) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(v)[:2], " ")
		}
	}
	require.Failf(x.t, "limits", "have no %s", name)
	return ""
}

// mountAt is what /proc/PID/mountinfo has of the topmost mount at a path.
func (x *shown) mountAt(path string) mountLine {
	x.t.Helper()
	m, ok := x.findMount(path)
	require.True(x.t, ok, "a mount at %s", path)
	return m
}

func (x *shown) findMount(path string) (m mountLine, found bool) {
	for line := range strings.Lines(x.procFile("mountinfo")) {
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if f[4] != path {
			continue
		}
		found = true
		m = mountLine{
			root: f[3], options: strings.Split(f[5], ","), tags: strings.Join(f[6:dash], " "),
			fs: f[dash+1], source: f[dash+2], super: strings.Split(f[dash+3], ","),
		}
	}
	return m, found
}

// mountLine is a line of mountinfo, see proc_pid_mountinfo(5).
type mountLine struct {
	root           string
	options, super []string // of the mount, of the file system
	tags           string   // shared:N, master:N; empty for a private mount
	fs, source     string
}

// namespace identifies one of the container's namespaces, by the name that it
// has in /proc/PID/ns.
func (x *shown) namespace(name string) string {
	x.t.Helper()
	return readlink(x.t, "/proc/"+itoa(int(x.Pid))+"/ns/"+name)
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	require.NoError(t, err)
	return target
}

// inside runs a command in the container, and returns what it wrote.
func (x *shown) inside(args ...string) string {
	x.t.Helper()
	p, err := x.Process(x.ctx, args...)
	require.NoError(x.t, err)
	return x.run(p)
}

// run runs a process in the container, and returns what it wrote.
func (x *shown) run(p *specs.Process) string {
	x.t.Helper()
	stdio := &harness.Stdio{}
	id := containerID("look")
	require.NoError(x.t, x.Exec(x.ctx, id, p, stdio))
	_, err := x.Start(x.ctx, id)
	require.NoError(x.t, err)
	_, _, err = x.Wait(x.ctx, id)
	require.NoError(x.t, err)
	require.NoError(x.t, stdio.Wait(x.ctx))
	_, err = x.Delete(x.ctx, id)
	require.NoError(x.t, err)
	return stdio.Out() + stdio.Err()
}
