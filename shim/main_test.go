package shim

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// asShim makes the test binary the shim: it starts itself, as the shim does.
const asShim = "NEXCAGE_TEST_AS_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		os.Exit(Main())
	}
	// The shims' own parents, the start verbs, have ended.
	if err := reaper.SetSubreaper(1); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// world is what containerd gives its shims.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	// Short: the path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "nx")
	require.NoError(t, err)
	w := &world{t: t, dir: dir}
	t.Cleanup(func() {
		left, err := os.ReadDir(w.sockets())
		if !os.IsNotExist(err) {
			assert.NoError(t, err)
		}
		assert.Empty(t, left, "sockets left behind")
		assert.NoError(t, os.RemoveAll(dir))
	})
	return w
}

func (w *world) sockets() string { return filepath.Join(w.dir, "s") }

// bundle is a bundle directory with the FIFO that containerd reads the log of.
type bundle struct {
	*world
	id, path string

	mu  sync.Mutex
	log bytes.Buffer
}

func (w *world) bundle(id, config string) *bundle {
	b := &bundle{world: w, id: id, path: filepath.Join(w.dir, id)}
	require.NoError(w.t, os.Mkdir(b.path, 0o700))
	if config != "" {
		require.NoError(w.t, os.WriteFile(filepath.Join(b.path, "config.json"), []byte(config), 0o600))
	}
	fifo := filepath.Join(b.path, "log")
	require.NoError(w.t, unix.Mkfifo(fifo, 0o600))
	r, err := os.OpenFile(fifo, os.O_RDWR, 0)
	require.NoError(w.t, err)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(b, r) }()
	w.t.Cleanup(func() {
		assert.NoError(w.t, r.Close())
		<-done
	})
	return b
}

// abandonLog puts a FIFO in the place of the log's that nobody reads.
func (b *bundle) abandonLog() (fifo string) {
	fifo = filepath.Join(b.path, "log")
	require.NoError(b.t, os.Remove(fifo))
	require.NoError(b.t, unix.Mkfifo(fifo, 0o600))
	return fifo
}

// Write takes the shim's log.
func (b *bundle) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bundle) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// run runs a verb as containerd does.
func (b *bundle) run(stdin []byte, args ...string) (stdout []byte, stderr string, err error) {
	cmd := b.command(stdin, args...)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	err = cmd.Run()
	return out.Bytes(), msg.String(), err
}

func (b *bundle) command(stdin []byte, args ...string) *exec.Cmd {
	args = append([]string{"-namespace", "ns", "-address", filepath.Join(b.dir, "c.sock"), "-publish-binary", "/bin/containerd",
		"-id", b.id, "-bundle", b.path}, args...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Dir = b.path
	cmd.Env = append(os.Environ(), asShim+"=1", "GORACE=atexit_sleep_ms=0", "GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS="+filepath.Join(b.dir, "c.sock.ttrpc"),
		"GRPC_ADDRESS="+filepath.Join(b.dir, "c.sock"), "NAMESPACE=ns")
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd
}

// address starts the shim without connecting.
func (b *bundle) address() string { return b.addressWith(nil) }

// start starts the shim as containerd 2.3 and later do, and connects.
func (b *bundle) start(change func(*bootapi.BootstrapParams), args ...string) *client {
	return b.dial(b.addressWith(change, args...))
}

func (b *bundle) addressWith(change func(*bootapi.BootstrapParams), args ...string) string {
	dir := b.sockets()
	params := &bootapi.BootstrapParams{InstanceID: b.id, Namespace: "ns", SocketDir: &dir}
	if change != nil {
		change(params)
	}
	input, err := proto.Marshal(params)
	require.NoError(b.t, err)
	stdout, stderr, err := b.run(input, append(args, "start")...)
	require.NoError(b.t, err, stderr)
	require.Empty(b.t, stderr) // containerd takes it for the answer
	var result bootapi.BootstrapResult
	require.NoError(b.t, proto.Unmarshal(stdout, &result))
	require.EqualValues(b.t, 3, result.Version)
	require.Equal(b.t, "ttrpc", result.Protocol)
	return result.Address
}

// client is containerd's connection for one container.
type client struct {
	b *bundle
	*ttrpc.Client
	v2    taskv2.TTRPCTaskService
	v3    taskv3.TTRPCTaskService
	path  string
	pid   int
	pidfd int
}

// dial finds the shim. Whatever the test does, the shim ends with it.
func (b *bundle) dial(address string) *client {
	path, ok := strings.CutPrefix(address, "unix://")
	require.True(b.t, ok, address)
	conn, err := net.Dial("unix", path)
	require.NoError(b.t, err)
	c := &client{b: b, Client: ttrpc.NewClient(conn), path: path}
	c.v2, c.v3 = taskv2.NewTTRPCTaskClient(c.Client), taskv3.NewTTRPCTaskClient(c.Client)
	resp, err := c.v3.Connect(b.t.Context(), &taskv3.ConnectRequest{ID: b.id})
	require.NoError(b.t, err, b.logged())
	c.pid = int(resp.ShimPid)
	c.pidfd, err = unix.PidfdOpen(c.pid, 0)
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		_ = c.Close()
		_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
		c.ended(b.t)
		_ = unix.Close(c.pidfd)
		_, stderr, err := b.run(nil, "delete")
		assert.NoError(b.t, err, stderr)
	})
	return c
}

func (c *client) signal(sig unix.Signal) {
	require.NoError(c.b.t, unix.PidfdSendSignal(c.pidfd, sig, nil, 0))
}

func (c *client) shutdown() {
	_, err := c.v3.Shutdown(c.b.t.Context(), &taskv3.ShutdownRequest{ID: c.b.id})
	require.NoError(c.b.t, err)
}

// ended waits until the shim has ended, and reaps it.
func (c *client) ended(t assert.TestingT) {
	assert.True(t, c.endsWithin(10*time.Second), "the shim does not end")
	if _, err := unix.Wait4(c.pid, nil, unix.WNOHANG, nil); err != nil {
		assert.ErrorIs(t, err, unix.ECHILD) // reaped already
	}
}

func (c *client) endsWithin(d time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, int(d.Milliseconds()))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// eventually waits for what another process does.
func eventually(t *testing.T, what func() bool, msg string) {
	require.Eventually(t, what, 10*time.Second, time.Millisecond, msg)
}
