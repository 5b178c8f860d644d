package lxc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// running is a process that ends when its stdin does, and is reaped at once.
type running struct {
	Proc
	stdin io.Closer
	gone  chan struct{} // closed after the reap
	state *os.ProcessState
}

func run(t *testing.T, script string) *running {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script+"\necho ready\nread x")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := &running{stdin: stdin, gone: make(chan struct{})}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.gone
	})
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	r.Proc, err = ProcOf(cmd.Process.Pid)
	require.NoError(t, err)
	go func() {
		defer close(r.gone)
		r.state, _ = cmd.Process.Wait()
	}()
	return r
}

func (r *running) hasGone() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

func TestAProcessIsKnownByItsStartTime(t *testing.T) {
	r := run(t, "")
	assert.Positive(t, r.StartTime)
	again, err := ProcOf(r.PID)
	require.NoError(t, err)
	assert.Equal(t, r.Proc, again)
	f, err := r.open()
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestANameWithParenthesesDoesNotHideTheStartTime(t *testing.T) {
	r := run(t, `printf 'a) R 1 (b c' >/proc/$$/comm`)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.PID))
	require.NoError(t, err)
	require.Equal(t, "a) R 1 (b c\n", string(comm))
	self, err := ProcOf(os.Getpid())
	require.NoError(t, err)
	assert.GreaterOrEqual(t, r.StartTime, self.StartTime)
}

func TestAnotherProcessWithThePidIsNotTouched(t *testing.T) {
	r := run(t, "")
	other := Proc{PID: r.PID, StartTime: r.StartTime - 1}
	_, err := other.open()
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, other.end(t.Context(), 0))
	f, err := r.open()
	require.NoError(t, err, "it still runs")
	require.NoError(t, f.Close())
}

func TestAProcessThatHasGoneIsNotFound(t *testing.T) {
	r := run(t, "")
	require.NoError(t, r.stdin.Close())
	<-r.gone
	for name, p := range map[string]Proc{"ended": r.Proc, "never was": {}} {
		_, err := p.open()
		require.ErrorIs(t, err, errdefs.ErrNotFound, name)
		require.NoError(t, p.end(t.Context(), time.Minute), name)
	}
	_, err := ProcOf(r.PID)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestEndWaitsUntilTheProcessIsGone(t *testing.T) {
	for name, patience := range map[string]time.Duration{"no patience": 0, "a little": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			r := run(t, "trap '' TERM")
			require.NoError(t, r.end(t.Context(), patience))
			_, err := r.open()
			require.ErrorIs(t, err, errdefs.ErrNotFound, "it was reaped")
			<-r.gone
			assert.Equal(t, unix.SIGKILL, r.state.Sys().(syscall.WaitStatus).Signal())
		})
	}
}

func TestEndLetsAProcessEndByItself(t *testing.T) {
	r := run(t, "")
	ended := make(chan error, 1)
	go func() { ended <- r.end(context.Background(), time.Minute) }()
	require.NoError(t, r.stdin.Close())
	require.NoError(t, <-ended)
	<-r.gone
	assert.True(t, r.state.Exited(), "it was not killed")
}

func TestEndOfTheContextKillsNothing(t *testing.T) {
	r := run(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, r.end(ctx, time.Minute), context.Canceled)
	assert.False(t, r.hasGone())
}

func TestExitStatusIsThatOfShells(t *testing.T) {
	for name, tc := range map[string]struct {
		status unix.WaitStatus
		want   int
	}{
		"success":     {0, 0},
		"code":        {7 << 8, 7},
		"highest":     {255 << 8, 255},
		"SIGTERM":     {unix.WaitStatus(unix.SIGTERM), 143},
		"SIGKILL":     {unix.WaitStatus(unix.SIGKILL), 137},
		"core dumped": {unix.WaitStatus(unix.SIGSEGV) | 0x80, 139},
	} {
		assert.Equal(t, tc.want, exitStatus(tc.status), name)
	}
}
