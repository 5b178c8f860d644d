package shim

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestShutdownEndsAShimWithoutContainers(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	c.shutdown() // and is answered
	require.NoError(t, c.Close())
	c.ended(t)
	_, err := os.Lstat(c.path)
	assert.ErrorIs(t, err, os.ErrNotExist, "the socket")
	assert.Empty(t, c.b.logged())
}

func TestShutdownDoesNotNeedAClientThatHangsUp(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	c.shutdown()
	c.ended(t)
}

// containerd asks for the shutdown after every Delete, while it may be about
// to create another container of the group on another connection.
func TestShutdownWaitsForOtherConnections(t *testing.T) {
	w := newWorld(t)
	config := `{"annotations": {"io.containerd.nexcage.v2.group": "g"}}`
	a, b := w.bundle("a", config).start(nil), w.bundle("b", config).start(nil)
	a.shutdown()
	require.NoError(t, a.Close())
	require.False(t, b.endsWithin(100*time.Millisecond))
	_, err := b.v3.Connect(t.Context(), &taskv3.ConnectRequest{ID: "b"})
	require.NoError(t, err)
	b.shutdown()
	require.NoError(t, b.Close())
	b.ended(t)
}

// Before 2.3 containerd runs the start verb for every container of a group, and
// connects afterwards.
func TestShutdownWaitsForAContainerThatWasStarted(t *testing.T) {
	w := newWorld(t)
	config := `{"annotations": {"io.containerd.nexcage.v2.group": "g"}}`
	a, b := w.bundle("a", config).start(nil), w.bundle("b", config)
	address := b.address()
	a.shutdown()
	require.NoError(t, a.Close())
	require.False(t, a.endsWithin(100*time.Millisecond), "b is coming")
	c := b.dial(address)
	assert.Equal(t, a.pid, c.pid)
	c.shutdown()
	c.ended(t)
}

func TestAStartVerbThatWasKilledLeavesNoShim(t *testing.T) {
	for name, unread := range map[string]bool{"at once": false, "with the reader of the log": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.bundle("c1", "")
			if unread {
				b.abandonLog()
			}
			dir := w.sockets()
			input, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: b.id, Namespace: "ns", SocketDir: &dir})
			require.NoError(t, err)
			// A verb that cannot deliver its answer ends in the middle.
			stdout, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			require.NoError(t, err)
			defer stdout.Close()
			cmd := b.command(input, "start")
			cmd.Stdout = stdout
			require.Error(t, cmd.Run())
			eventually(t, func() bool { left, err := os.ReadDir(dir); return err == nil && len(left) == 0 }, "the shim keeps its socket")
			eventually(t, func() bool { _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); return err == unix.ECHILD }, "the shim does not end")
		})
	}
}

func TestTheLogGoesToAReaderThatComesLate(t *testing.T) {
	b := newWorld(t).bundle("c1", "")
	fifo := b.abandonLog()
	c := b.start(nil)
	r, err := os.OpenFile(fifo, os.O_RDONLY, 0) // waits for the shim's end
	require.NoError(t, err)
	defer r.Close()
	done := make(chan error, 1)
	go func() { _, err := io.Copy(b, r); done <- err }()
	eventually(t, func() bool {
		c.signal(unix.SIGUSR1)
		return strings.Contains(b.logged(), "shim.(*command).serve")
	}, "no log")
	c.signal(unix.SIGKILL)
	require.NoError(t, <-done)
	c.ended(t)
}

func TestSignalsEndTheShim(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			c := newWorld(t).bundle("c1", "").start(nil)
			c.signal(sig)
			c.ended(t)
			_, err := os.Lstat(c.path)
			assert.ErrorIs(t, err, os.ErrNotExist, "the socket")
		})
	}
}

func TestTheShimLivesOnWithoutAReaderOfItsLog(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	c.signal(unix.SIGPIPE)
	_, err := c.v3.Connect(t.Context(), &taskv3.ConnectRequest{ID: "c1"})
	require.NoError(t, err)
}

func TestChildrenDoNotIgnoreSIGPIPE(t *testing.T) {
	catchSIGPIPE()
	out, err := exec.Command("cat", "/proc/self/status").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			require.NoError(t, err)
			assert.Zero(t, mask&(1<<(unix.SIGPIPE-1)))
			return
		}
	}
	t.Fatal("no SigIgn")
}

func TestSIGUSR1WritesTheGoroutinesToTheLog(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	c.signal(unix.SIGUSR1)
	eventually(t, func() bool { return strings.Contains(c.b.logged(), "shim.(*command).serve") }, "no stacks")
}

func TestDebugIsPassedOnToTheServer(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil, "-debug")
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(c.pid) + "/cmdline")
	require.NoError(t, err)
	assert.Contains(t, strings.Split(string(cmdline), "\x00"), "-debug")
}

func TestAnUnknownContainerIsNotFound(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	for name, call := range map[string]func() error{
		"state":  func() error { _, err := c.v3.State(t.Context(), &taskv3.StateRequest{ID: "x"}); return err },
		"start":  func() error { _, err := c.v3.Start(t.Context(), &taskv3.StartRequest{ID: "x"}); return err },
		"kill":   func() error { _, err := c.v3.Kill(t.Context(), &taskv3.KillRequest{ID: "x", Signal: 9}); return err },
		"delete": func() error { _, err := c.v3.Delete(t.Context(), &taskv3.DeleteRequest{ID: "x"}); return err },
		"pids":   func() error { _, err := c.v3.Pids(t.Context(), &taskv3.PidsRequest{ID: "x"}); return err },
		"exec": func() error {
			_, err := c.v3.Exec(t.Context(), &taskv3.ExecProcessRequest{ID: "x", ExecID: "e"})
			return err
		},
		"wait": func() error { _, err := c.v3.Wait(t.Context(), &taskv3.WaitRequest{ID: "x"}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			assert.ErrorIs(t, errgrpc.ToNative(call()), errdefs.ErrNotFound)
		})
	}
}

func TestDeleteOfWhatNeverWasAnswersAsForAKilledOne(t *testing.T) {
	b := newWorld(t).bundle("c1", "")
	before := time.Now()
	stdout, stderr, err := b.run(nil, "delete")
	require.NoError(t, err, stderr)
	assert.Empty(t, stderr)
	var resp taskv3.DeleteResponse
	require.NoError(t, proto.Unmarshal(stdout, &resp))
	assert.EqualValues(t, 137, resp.ExitStatus)
	assert.Zero(t, resp.Pid)
	assert.WithinRange(t, resp.ExitedAt.AsTime(), before, time.Now())
}

func TestDeleteRemovesTheSocketOfAShimThatWasKilled(t *testing.T) {
	c := newWorld(t).bundle("c1", "").start(nil)
	c.signal(unix.SIGKILL)
	c.ended(t)
	_, err := os.Lstat(c.path)
	require.NoError(t, err)
	_, stderr, err := c.b.run(nil, "delete")
	require.NoError(t, err)
	assert.Empty(t, stderr)
	_, err = os.Lstat(c.path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestInfoTellsTheFeatures(t *testing.T) {
	opts, err := typeurl.MarshalAnyToProto(&options.Options{Root: "/x"})
	require.NoError(t, err)
	input, err := proto.Marshal(opts)
	require.NoError(t, err)
	for name, stdin := range map[string][]byte{"with options": input, "without": nil} {
		t.Run(name, func(t *testing.T) {
			b := newWorld(t).bundle("c1", "")
			stdout, stderr, err := b.run(stdin, "-info")
			require.NoError(t, err, stderr)
			assert.Empty(t, stderr)
			var info types.RuntimeInfo
			require.NoError(t, proto.Unmarshal(stdout, &info))
			assert.Equal(t, "io.containerd.nexcage.v2", info.Name)
			assert.Equal(t, &types.RuntimeVersion{Version: Version, Revision: Revision}, info.Version)
			assert.Equal(t, "types.containerd.io/opencontainers/runtime-spec/1/features/Features", info.Features.TypeUrl)
			v, err := typeurl.UnmarshalAny(info.Features)
			require.NoError(t, err)
			assert.Contains(t, v.(*features.Features).MountOptions, "rro")
			assert.Equal(t, stdin != nil, proto.Equal(opts, info.Options))
		})
	}
}

// A RuntimeClass for crun has crun's features.
func TestInfoTellsTheFeaturesOfTheBackendOfTheOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want string // a mount option that the other does not know
	}{
		"lxc":       {"", "rro"},
		"crun":      {"[routing]\ndefault_backend = \"crun\"\n", "tmpcopyup"},
		"bad":       {"[routing]\ndefault_backend = \"kvm\"\n", ""},
		"no engine": {"[routing]\ndefault_backend = \"crun\"\n[crun]\npath = \"/nowhere/crun\"\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			opts, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte(tt.body)})
			require.NoError(t, err)
			input, err := proto.Marshal(opts)
			require.NoError(t, err)
			stdout, stderr, err := newWorld(t).bundle("c1", "").run(input, "-info")
			if tt.want == "" {
				require.Error(t, err)
				assert.Regexp(t, "routing.default_backend|/nowhere/crun", stderr)
				return
			}
			require.NoError(t, err, stderr)
			var info types.RuntimeInfo
			require.NoError(t, proto.Unmarshal(stdout, &info))
			v, err := typeurl.UnmarshalAny(info.Features)
			require.NoError(t, err)
			assert.Contains(t, v.(*features.Features).MountOptions, tt.want)
		})
	}
}

func TestVersionIsToldInBothForms(t *testing.T) {
	b := newWorld(t).bundle("c1", "")
	for _, flag := range []string{"-v", "-version"} {
		stdout, stderr, err := b.run(nil, flag)
		require.NoError(t, err, stderr)
		assert.Contains(t, string(stdout), "Version:    "+Version)
	}
}
