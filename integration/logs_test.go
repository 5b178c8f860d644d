package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// TestLogToFiles sends output to file:// URIs, as `nerdctl` and CRI tools do.
func TestLogToFiles(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		dir := t.TempDir()
		both, exec := filepath.Join(dir, "both.log"), filepath.Join(dir, "exec.log")
		require.NoError(t, os.WriteFile(both, []byte("earlier\n"), 0o600))

		s := newScript(t, w, rt, "file-log", "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
		s.stdio = &harness.Stdio{Stdout: "file://" + both, Stderr: "file://" + both}
		s.create()
		s.start()
		stdio := &harness.Stdio{Stdout: "file://" + exec}
		s.exec("e", stdio, nil, "sh", "-c", "yes | head -n 100000")
		s.startExec("e")
		s.waitExec("e")
		s.deleteExec("e")
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()

		assert.Equal(t, besideLog("exec e: ok", "start e: ok", "exit e: 0", "delete e: 0"), s.log)
		// Two streams: which of them is written first is open.
		assert.ElementsMatch(t, []string{"earlier\n", "out\n", "err\n"}, slices.Collect(strings.Lines(content(t, both))))
		assert.True(t, strings.HasPrefix(content(t, both), "earlier\n"))
		assert.Equal(t, quote(strings.Repeat("y\n", 100000)), quote(content(t, exec)))
	})
}

// logger is a logging program: descriptor 3 is stdout, 4 is stderr, and the
// end of 5 says that it is ready. It tells by the FIFO when it is done.
const logger = `#!/bin/sh
trap "" TERM # sent when the container is deleted; what is in the pipes still counts
dir=$2
printf '%s\n' "$@" "$CONTAINER_ID" "$CONTAINER_NAMESPACE" > $dir/args
cat <&3 > $dir/out 5>&- &
cat <&4 > $dir/err 5>&- &
touch $dir/ready
exec 5>&- 3<&- 4<&-
wait
echo done > $dir/done
`

// TestLogToProgram sends output to a binary:// logger.
func TestLogToProgram(t *testing.T) {
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		dir := t.TempDir()
		program := filepath.Join(dir, "logger")
		require.NoError(t, os.WriteFile(program, []byte(logger), 0o755))
		done := openFIFO(t, filepath.Join(dir, "done"))

		uri := fmt.Sprintf("binary://%s?--dir=%s", program, dir)
		s := newScript(t, w, rt, "program-log", "sh", "-c", "yes | head -n 100000; echo err >&2; exit 3")
		s.stdio = &harness.Stdio{Stdout: uri, Stderr: uri}
		s.create()
		assert.FileExists(t, filepath.Join(dir, "ready"), "Create waits for the logger")
		s.start()
		s.wait()
		s.delete()
		assert.Equal(t, []string{"create: ok", "start: ok", "exit: 3", "delete: 3"}, s.log)
		awaitFIFO(t, done)
		assert.Equal(t, quote(strings.Repeat("y\n", 100000)), quote(content(t, filepath.Join(dir, "out"))))
		assert.Equal(t, "err\n", content(t, filepath.Join(dir, "err")))
		assert.Equal(t, fmt.Sprintf("--dir\n%s\n%s\n%s\n", dir, s.ID, w.Namespace), content(t, filepath.Join(dir, "args")))
	})
}

// TestLoggerThatFails has a logger that ends before it is ready.
func TestLoggerThatFails(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		leaveNothing(t, w)
		s := newScript(t, w, rt, "no-logger", "true")
		s.stdio = &harness.Stdio{Stdout: "binary:///no/such/logger", Stderr: "binary:///no/such/logger"}
		s.create()
		assert.ErrorContains(t, s.last, "/no/such/logger")
		s.state()
		assert.Equal(t, "state: not found", s.log[len(s.log)-1])
	})
}

// openFIFO makes a FIFO and keeps it open in both directions: nobody blocks.
func openFIFO(t *testing.T, path string) *os.File {
	t.Helper()
	require.NoError(t, unix.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// awaitFIFO waits until somebody has written to it.
func awaitFIFO(t *testing.T, f *os.File) {
	t.Helper()
	require.NoError(t, f.SetReadDeadline(time.Now().Add(slow(10*time.Second))))
	_, err := f.Read(make([]byte, 100))
	require.NoError(t, err, "nobody wrote to %s", f.Name())
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// hookScript writes down what a hook is given.
const hookScript = `#!/bin/sh
{
	echo "arg $*"
	echo "env $MARK"
	echo "cwd $PWD"
	echo "state $(cat)"
} > $DIR/$1
pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' $DIR/$1)
[ -z "$pid" ] || [ "$pid" = 0 ] || readlink /proc/$pid/ns/net > $DIR/$1.netns
readlink /proc/self/ns/mnt > $DIR/$1.mntns
[ -e /proc/self/fd/3 ] && ls -l /proc/self/fd > $DIR/$1.fds
exit $2
`

// hooks are those that nerdctl writes: everything of its networking.
func hooks(t *testing.T, createStatus string) (dir string, opt oci.SpecOpts) {
	dir = t.TempDir()
	program := filepath.Join(dir, "hook")
	require.NoError(t, os.WriteFile(program, []byte(hookScript), 0o755))
	hook := func(name, status string) []specs.Hook {
		return []specs.Hook{{Path: program, Args: []string{program, name, status}, Env: []string{"MARK=set", "DIR=" + dir, "PATH=/usr/bin:/bin"}}}
	}
	return dir, oci.Compose(oci.WithAnnotations(map[string]string{"nerdctl/name": "box"}), func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime", createStatus), Poststop: hook("poststop", "0")}
		return nil
	})
}

// TestHooksOfNerdctl runs the hooks that carry its networking.
func TestHooksOfNerdctl(t *testing.T) {
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		dir, opt := hooks(t, "0")
		s := newScriptSpec(t, w, rt, "hooks", []oci.SpecOpts{opt}, "readlink", "/proc/self/ns/net")
		s.create()
		state := content(t, filepath.Join(dir, "createRuntime"))
		assert.NoFileExists(t, filepath.Join(dir, "poststop"))
		s.start()
		s.wait()
		require.NoError(t, s.stdio.Wait(s.ctx))
		assert.NoFileExists(t, filepath.Join(dir, "poststop"), "poststop comes with Delete")
		s.delete()

		assert.Equal(t, []string{"create: ok", "start: ok", "exit: 0", "delete: 0"}, s.log)
		assert.Contains(t, state, "arg createRuntime 0\nenv set\n")
		for _, part := range []string{fmt.Sprintf(`"pid":%d`, s.Pid), fmt.Sprintf(`"id":"%s"`, s.ID), `"nerdctl/name":"box"`, `"bundle":"`} {
			assert.Contains(t, strings.ReplaceAll(state, `": `, `":`), part)
		}
		assert.Equal(t, s.stdio.Out(), content(t, filepath.Join(dir, "createRuntime.netns")), "the container's network")
		host, err := os.Readlink("/proc/self/ns/mnt")
		require.NoError(t, err)
		assert.Equal(t, host+"\n", content(t, filepath.Join(dir, "createRuntime.mntns")), "runs in the host's namespace")
		assert.Contains(t, content(t, filepath.Join(dir, "poststop")), fmt.Sprintf(`"id":"%s"`, s.ID))
		assert.NoFileExists(t, filepath.Join(dir, "createRuntime.fds"), "descriptors given to the hook")
	})
}

// TestHookThatFails must fail Create with what the hook said, and clean up.
func TestHookThatFails(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		leaveNothing(t, w)
		dir, opt := hooks(t, "9")
		s := newScriptSpec(t, w, rt, "failing-hook", []oci.SpecOpts{opt}, forever...)
		s.create()
		require.Error(t, s.last)
		s.state()
		assert.Equal(t, []string{"create: unknown", "state: not found"}, s.log)
		assert.FileExists(t, filepath.Join(dir, "poststop"), "poststop runs where createRuntime had begun")
	})
}

// TestPoststopAfterFailedCreate frees the address that createRuntime took.
func TestPoststopAfterFailedCreate(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		leaveNothing(t, w)
		dir, opt := hooks(t, "0")
		s := newScriptSpec(t, w, rt, "failed-create", []oci.SpecOpts{opt}, "nosuch")
		s.create()
		require.Error(t, s.last)
		assert.FileExists(t, filepath.Join(dir, "createRuntime"))
		assert.FileExists(t, filepath.Join(dir, "poststop"))
	})
}
