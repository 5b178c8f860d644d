package pidfd

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	require.NoError(t, cmd.Start())
	return cmd
}

func TestWaitReturnsTheStatusOnlyAfterTheReap(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		check  func(unix.WaitStatus) bool
	}{
		"exit code": {"exit 7", func(s unix.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 7 }},
		"signal":    {"kill -TERM $$", func(s unix.WaitStatus) bool { return s.Signaled() && s.Signal() == unix.SIGTERM }},
		"success":   {"exit 0", func(s unix.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := start(t, tc.script)
			f, err := Open(cmd.Process.Pid)
			require.NoError(t, err)
			defer f.Close()
			done := make(chan unix.WaitStatus, 1)
			go func() {
				s, err := Wait(f)
				assert.NoError(t, err)
				done <- s
			}()
			// A zombie is not the end: wait until it is one.
			require.NoError(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
			select {
			case <-done:
				t.Fatal("Wait returned before the reap")
			case <-time.After(20 * time.Millisecond):
			}
			_ = cmd.Wait()
			assert.True(t, tc.check(<-done))
		})
	}
}

// The number of a process that led a group is taken until the group is gone.
func TestOpenOfAProcessWhoseGroupGoesOnIsNotFound(t *testing.T) {
	leader := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null & echo")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, leader.Run())
	t.Cleanup(func() { assert.NoError(t, unix.Kill(-leader.Process.Pid, unix.SIGKILL)) })
	_, err := Open(leader.Process.Pid)
	assert.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestKernelsAnswersForAMissingProcess(t *testing.T) {
	for _, tc := range []struct {
		pid  int
		err  error
		want bool
	}{
		{1000, unix.ESRCH, true},
		{1000, unix.EINVAL, true},
		{1000, unix.ENOENT, true},
		{-1, unix.EINVAL, false},
		{1000, unix.EMFILE, false},
	} {
		assert.Equal(t, tc.want, isMissing(tc.pid, tc.err), "%d: %v", tc.pid, tc.err)
	}
}

func TestSignalOfAnEndedProcessIsNotFound(t *testing.T) {
	cmd := start(t, "exit 0")
	f, err := Open(cmd.Process.Pid)
	require.NoError(t, err)
	defer f.Close()
	_ = cmd.Wait()
	assert.ErrorIs(t, Signal(f, unix.SIGTERM), errdefs.ErrNotFound)
	_, err = Open(cmd.Process.Pid)
	assert.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestWaitGoneEndsWithItsContext(t *testing.T) {
	cmd := start(t, "read x")
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	f, err := Open(cmd.Process.Pid)
	require.NoError(t, err)
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, WaitGone(ctx, f), context.DeadlineExceeded)
}

func TestWaitGoneCanBeCalledAgain(t *testing.T) {
	cmd := start(t, "read x")
	f, err := Open(cmd.Process.Pid)
	require.NoError(t, err)
	defer f.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		require.ErrorIs(t, WaitGone(ended, f), context.Canceled)
	}
	gone := make(chan error, 1)
	go func() { gone <- WaitGone(t.Context(), f) }()
	select {
	case err := <-gone:
		t.Fatal("the process runs, but WaitGone returned", err)
	case <-time.After(20 * time.Millisecond):
	}
	require.NoError(t, Signal(f, unix.SIGKILL))
	_ = cmd.Wait()
	require.NoError(t, <-gone)
}

func TestKernelReleasesAreCompared(t *testing.T) {
	for release, want := range map[string]bool{
		"6.15.0": true, "6.15": true, "6.17.2-1-pve": true, "7.0.0-rc1": true, "10.1": true,
		"6.14.11-4-pve": false, "6.8.12-9-pve": false, "6.1.0-18-amd64": false, "5.20.0": false, "": false, "x": false,
	} {
		assert.Equal(t, want, atLeast(release, 6, 15), release)
	}
}

// What the release says is what the kernel does.
func TestKeepsStatusIsWhatTheKernelDoes(t *testing.T) {
	cmd := start(t, "exit 7")
	f, err := Open(cmd.Process.Pid)
	require.NoError(t, err)
	defer f.Close()
	require.Error(t, cmd.Wait())
	_, err = Wait(f)
	if KeepsStatus() {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, ErrNoStatus)
	}
}
