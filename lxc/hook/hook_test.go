package hook

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithCancel(context.Background())
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

func sh(script string, args ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func stateIn(t *testing.T) *specs.State {
	return &specs.State{Version: "1.3.0", ID: "c1", Status: specs.StateCreating, Pid: 42, Bundle: t.TempDir()}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func TestHookGetsTheStateOnStdin(t *testing.T) {
	state := stateIn(t)
	state.Annotations = map[string]string{"big": strings.Repeat("x", 1<<20)} // more than a pipe holds
	require.NoError(t, Run(t.Context(), "prestart", []specs.Hook{sh("cat >state")}, state))
	var got specs.State
	require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(state.Bundle, "state"))), &got))
	assert.Equal(t, *state, got)
}

func TestHookRunsInTheBundleWithOnlyItsEnvironment(t *testing.T) {
	t.Setenv("LEAK", "1")
	for name, env := range map[string][]string{"none": nil, "its own": {"A=b c"}} {
		t.Run(name, func(t *testing.T) {
			state := stateIn(t)
			h := specs.Hook{Path: "/usr/bin/env", Args: []string{"env", "/bin/sh", "-c", "tr '\\0' '\\n' </proc/$PPID/environ >/dev/null; cat /proc/self/environ >env"}, Env: env}
			h.Args = append([]string{"env", "PATH=/usr/bin:/bin"}, h.Args[1:]...)
			require.NoError(t, Run(t.Context(), "prestart", []specs.Hook{h}, state))
			got := strings.Split(strings.TrimSuffix(read(t, filepath.Join(state.Bundle, "env")), "\x00"), "\x00")
			assert.NotContains(t, got, "LEAK=1")
			assert.Subset(t, got, env)
		})
	}
}

func TestArgsDefaultToThePath(t *testing.T) {
	assert.Equal(t, []string{"/x"}, command(specs.Hook{Path: "/x"}, "/").Args)
	assert.Equal(t, []string{"a"}, command(specs.Hook{Path: "/x", Args: []string{"a"}}, "/").Args)
	assert.NotNil(t, command(specs.Hook{Path: "/x"}, "/").Env)
}

func TestHooksRunInOrderAndTheFirstFailureEnds(t *testing.T) {
	state := stateIn(t)
	err := Run(t.Context(), "createRuntime", []specs.Hook{
		sh("echo 1 >>log"), sh("echo 2 >>log; echo boom >&2; exit 3"), sh("echo 3 >>log"),
	}, state)
	assert.Equal(t, "1\n2\n", read(t, filepath.Join(state.Bundle, "log")))
	require.EqualError(t, err, "hooks.createRuntime[1] (/bin/sh): error running hook: exit status 3, stderr: boom")
	var hookErr *Error
	require.ErrorAs(t, err, &hookErr)
	assert.Equal(t, 1, hookErr.Index)
}

func TestRunAllGoesOnAfterAFailure(t *testing.T) {
	state := stateIn(t)
	err := RunAll(t.Context(), "poststop", []specs.Hook{
		sh("exit 1"), {Path: "/nonexistent"}, sh("echo 3 >>log"),
	}, state)
	assert.Equal(t, "3\n", read(t, filepath.Join(state.Bundle, "log")))
	assert.ErrorContains(t, err, "hooks.poststop[0]")
	assert.ErrorContains(t, err, "hooks.poststop[1] (/nonexistent)")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestFailuresAreReported(t *testing.T) {
	zero := 0
	long := sh("head -c 100000 /dev/zero | tr '\\0' a >&2; echo end >&2; exit 1")
	for name, tc := range map[string]struct {
		hook specs.Hook
		text string
	}{
		"killed by a signal": {sh("kill -9 $$"), "exit status 137"},
		"no such program":    {specs.Hook{Path: "/nonexistent"}, "no such file or directory"},
		"zero timeout":       {specs.Hook{Path: "/bin/true", Timeout: &zero}, "timeout: 0 is not greater than zero"},
		"the end of stderr":  {long, "aaaaend"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(t.Context(), "prestart", []specs.Hook{tc.hook}, stateIn(t))
			require.ErrorContains(t, err, tc.text)
			assert.Less(t, len(err.Error()), tailSize+200)
		})
	}
	err := Run(t.Context(), "prestart", []specs.Hook{{Path: "/bin/true", Timeout: &zero}}, stateIn(t))
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestTimeoutKillsTheHook(t *testing.T) {
	state, one := stateIn(t), 1
	h := sh("echo $$ >pid; exec sleep 60")
	h.Timeout = &one
	begin := time.Now()
	err := Run(t.Context(), "createRuntime", []specs.Hook{h}, state)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "hook ran past specified timeout of 1 s")
	assert.Less(t, time.Since(begin), 30*time.Second)
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(state.Bundle, "pid"))))
	require.NoError(t, err)
	assert.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH)
}

func TestCancelKillsTheHook(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := Run(ctx, "createRuntime", []specs.Hook{sh("exec sleep 60")}, stateIn(t))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotContains(t, err.Error(), "specified timeout")
}

func TestADaemonLeftBehindDoesNotHoldUpTheHook(t *testing.T) {
	state := stateIn(t)
	begin := time.Now()
	// The daemon keeps stdin, stdout and stderr of the hook.
	require.NoError(t, Run(t.Context(), "createRuntime", []specs.Hook{sh("sleep 60 & echo $! >pid")}, state))
	assert.Less(t, time.Since(begin), 30*time.Second)
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(state.Bundle, "pid"))))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
}

func TestADaemonLeftBehindCannotGrowTheScratchFile(t *testing.T) {
	s, err := newScratch("test", []byte("abc"))
	require.NoError(t, err)
	defer s.Close()
	s.seal()
	_, err = s.WriteAt([]byte("d"), 3)
	assert.ErrorIs(t, err, unix.EPERM)
	assert.Equal(t, "abc", s.tail())
}

func TestNoHooksIsNoWork(t *testing.T) {
	assert.NoError(t, Run(t.Context(), "prestart", nil, nil))
	assert.NoError(t, RunAll(t.Context(), "poststop", nil, nil))
}

func TestHooksLeaveNoDescriptor(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	state := stateIn(t)
	require.NoError(t, Run(t.Context(), "prestart", []specs.Hook{sh("true")}, state)) // opens the runtime's own
	before := count()
	for range 10 {
		require.NoError(t, Run(t.Context(), "prestart", []specs.Hook{sh("true")}, state))
	}
	assert.Equal(t, before, count())
}
