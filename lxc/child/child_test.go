package child

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The test binary is its own child: a role is chosen by the environment.
const roleVariable = "CHILD_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	ctx, cancel := context.WithCancel(context.Background())
	go Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

// play returns the exit code.
func play(role string) int {
	if role == "late reaper" {
		return reapLate()
	}
	if code, err := strconv.Atoi(role); err == nil {
		return code
	}
	_ = unix.Pause() // until killed
	return 1
}

func command(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVariable + "=" + role}
	return cmd
}

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		name string
		cmd  *exec.Cmd
		want int
	}{
		{"success", command("0"), 0},
		{"code", command("7"), 7},
		{"highest code", command("255"), 255},
		{"SIGKILL is 128 + 9", exec.Command("/bin/sh", "-c", "kill -9 $$"), 137},
		{"SIGTERM is 128 + 15", exec.Command("/bin/sh", "-c", "kill -15 $$"), 143},
		{"SIGUSR1 is 128 + 10", exec.Command("/bin/sh", "-c", "kill -10 $$"), 138},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := time.Now()
			c, err := Start(tt.cmd)
			require.NoError(t, err)
			assert.Equal(t, tt.cmd.Process.Pid, c.Pid())
			exit, err := c.Wait(t.Context())
			require.NoError(t, err)
			assert.Equal(t, tt.want, exit.Status)
			assert.WithinRange(t, exit.At, before, time.Now())
			assert.Equal(t, exit, c.Exit())
		})
	}
}

// TestChildThatEndsBeforeItIsAdopted starts a process beside this package, as
// a helper does that reports a pid when the process may be gone again.
func TestChildThatEndsBeforeItIsAdopted(t *testing.T) {
	exits := reaper.Default.Subscribe()
	defer reaper.Default.Unsubscribe(exits)
	e := Expect()
	cmd := command("7")
	require.NoError(t, cmd.Start())
	pid := cmd.Process.Pid
	for x := range exits {
		if x.Pid == pid {
			break
		}
	}
	exit, err := e.Adopt(pid).Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 7, exit.Status)
	assertNothingExpected(t)
}

func TestChildThatIsAdoptedWhileItRuns(t *testing.T) {
	e := Expect()
	cmd := command("wait")
	require.NoError(t, cmd.Start())
	c := e.Adopt(cmd.Process.Pid)
	e.Cancel() // does nothing any more
	select {
	case <-c.Done():
		t.Fatal("the process runs")
	default:
	}
	require.NoError(t, cmd.Process.Kill())
	exit, err := c.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 137, exit.Status)
	assertNothingExpected(t)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	cmd := command("wait")
	c, err := Start(cmd)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, cmd.Process.Kill())
	<-c.Done()
}

func TestStartThatFailsExpectsNothing(t *testing.T) {
	_, err := Start(exec.Command("/nonexistent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	assertNothingExpected(t)
}

func TestExitsOfStrangersAreForgotten(t *testing.T) {
	exits := reaper.Default.Subscribe()
	defer reaper.Default.Unsubscribe(exits)
	e := Expect()
	stranger := command("3")
	require.NoError(t, stranger.Start())
	for x := range exits {
		if x.Pid == stranger.Process.Pid {
			break
		}
	}
	e.Cancel()
	e.Cancel()
	assertNothingExpected(t)
}

func assertNothingExpected(t *testing.T) {
	t.Helper()
	children.mu.Lock()
	defer children.mu.Unlock()
	assert.Zero(t, children.starting)
	assert.Empty(t, children.early)
	assert.Empty(t, children.children)
}

func TestManyChildrenAtATimeGetTheirOwnStatus(t *testing.T) {
	const workers, rounds = 16, 8
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				want := (w*rounds + r) % 256
				c, err := Start(command(strconv.Itoa(want)))
				if !assert.NoError(t, err) {
					return
				}
				exit, err := c.Wait(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, want, exit.Status)
			}
		})
	}
	wg.Wait()
	assertNothingExpected(t)
}

func TestManyWaitersOfOneChild(t *testing.T) {
	cmd := command("wait")
	c, err := Start(cmd)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			exit, err := c.Wait(t.Context())
			assert.NoError(t, err)
			assert.Equal(t, 143, exit.Status)
		})
	}
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	wg.Wait()
}

// TestReapCollectsWhoEndedBefore needs a process of its own, whose reaper
// starts late.
func TestReapCollectsWhoEndedBefore(t *testing.T) {
	cmd := command("late reaper")
	cmd.Stderr = os.Stderr
	c, err := Start(cmd)
	require.NoError(t, err)
	exit, err := c.Wait(t.Context())
	require.NoError(t, err)
	assert.Zero(t, exit.Status)
}

func reapLate() int {
	c, err := Start(command("5"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := unix.Waitid(unix.P_PID, c.Pid(), nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go Reap(ctx)
	exit, err := c.Wait(ctx)
	if err != nil || exit.Status != 5 {
		fmt.Fprintln(os.Stderr, exit, err)
		return 1
	}
	return 0
}
