package shim

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestStartServesBothVersionsOfTheTaskAPI(t *testing.T) {
	c := newWorld(t).bundle("c1", `{"ociVersion": "1.1.0"}`).start(nil)
	resp, err := c.v2.Connect(t.Context(), &taskv2.ConnectRequest{ID: "c1"})
	require.NoError(t, err)
	assert.EqualValues(t, c.pid, resp.ShimPid)
}

// containerd before 2.3 reads a plain address. It keeps its sockets where it
// wants them by default: the test uses a namespace of its own there.
func TestStartAnswersAnOldContainerdWithTheAddressAlone(t *testing.T) {
	opts, err := typeurl.MarshalAnyToProto(&options.Options{Root: "/run/x"})
	require.NoError(t, err)
	input, err := proto.Marshal(opts)
	require.NoError(t, err)
	for name, stdin := range map[string][]byte{"with options": input, "without": nil} {
		t.Run(name, func(t *testing.T) {
			b := newWorld(t).bundle("c1", `{}`)
			stdout, stderr, err := b.run(stdin, "start")
			require.NoError(t, err, stderr)
			assert.Empty(t, stderr)
			assert.Equal(t, filepath.Join(defaults.DefaultStateDir, "s"), filepath.Dir(strings.TrimPrefix(string(stdout), "unix://")))
			c := b.dial(string(stdout))
			file, err := os.ReadFile(filepath.Join(b.path, "address"))
			require.NoError(t, err)
			assert.Equal(t, string(stdout), string(file))
			c.shutdown()
			require.NoError(t, c.Close())
			c.ended(t)
		})
	}
}

func TestSocketIsForRootOnly(t *testing.T) {
	w := newWorld(t)
	c := w.bundle("c1", "").start(nil) // without a config.json
	for path, want := range map[string]os.FileMode{w.sockets(): os.ModeDir | 0o700, c.path: os.ModeSocket | 0o600} {
		i, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, i.Mode())
	}
}

// Who gets past the modes is looked at, too.
func TestOtherUsersAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.bundle("c1", "").start(nil)
	require.NoError(t, os.Chmod(w.dir, 0o755))
	require.NoError(t, os.Chmod(w.sockets(), 0o755))
	require.NoError(t, os.Chmod(c.path, 0o666))

	closed := make(chan error, 1)
	go func() {
		// A thread of another user, which ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			closed <- errno
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: c.path})
		}
		if err == nil {
			var n int
			if n, err = unix.Read(fd, make([]byte, 1)); err == nil && n != 0 {
				err = fmt.Errorf("%d bytes", n)
			}
		}
		closed <- err // nil is the end of the connection
	}()
	if err := <-closed; err != nil {
		assert.ErrorIs(t, err, unix.ECONNRESET)
	}
	eventually(t, func() bool { return strings.Contains(c.b.logged(), "refusing connection") }, "no refusal in the log")
}

func TestAGroupSharesAShim(t *testing.T) {
	for _, key := range []string{"io.containerd.nexcage.v2.group", "io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		t.Run(key, func(t *testing.T) {
			w := newWorld(t)
			config := fmt.Sprintf(`{"annotations": {%q: "g"}}`, key)
			a := w.bundle("a", config).start(nil)
			b := w.bundle("b", config).start(nil)
			other := w.bundle("c", `{}`).start(nil)
			assert.Equal(t, a.pid, b.pid)
			assert.Equal(t, a.path, b.path)
			assert.NotEqual(t, a.pid, other.pid)
		})
	}
}

func TestMembersOfAGroupThatStartAtOnceShareAShim(t *testing.T) {
	w := newWorld(t)
	const n = 8
	bundles := make([]*bundle, n)
	for i := range bundles {
		bundles[i] = w.bundle("c"+strconv.Itoa(i), `{"annotations": {"io.containerd.nexcage.v2.group": "g"}}`)
	}
	dir := w.sockets()
	addresses := make(chan string, n)
	for _, b := range bundles {
		input, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: b.id, Namespace: "ns", SocketDir: &dir})
		require.NoError(t, err)
		go func() {
			stdout, stderr, err := b.run(input, "start")
			assert.NoError(t, err, stderr)
			var result bootapi.BootstrapResult
			assert.NoError(t, proto.Unmarshal(stdout, &result))
			addresses <- result.Address
		}()
	}
	pids := map[int]bool{}
	for _, b := range bundles {
		pids[b.dial(<-addresses).pid] = true
	}
	assert.Len(t, pids, 1)
}

func TestAShimThatDiedIsReplaced(t *testing.T) {
	w := newWorld(t)
	config := `{"annotations": {"io.containerd.nexcage.v2.group": "g"}}`
	a := w.bundle("a", config).start(nil)
	a.signal(unix.SIGKILL)
	a.ended(t)
	b := w.bundle("b", config).start(nil)
	assert.Equal(t, a.path, b.path)
	assert.NotEqual(t, a.pid, b.pid)
}

func TestTheServerIsSetUpAsContainerdWantsIt(t *testing.T) {
	b := newWorld(t).bundle("c1", "")
	c := b.start(nil)
	proc := fmt.Sprintf("/proc/%d/", c.pid)

	cwd, err := os.Readlink(proc + "cwd")
	require.NoError(t, err)
	assert.Equal(t, b.path, cwd, "working directory")

	pgid, err := unix.Getpgid(c.pid)
	require.NoError(t, err)
	assert.Equal(t, c.pid, pgid, "process group")

	environ, err := os.ReadFile(proc + "environ")
	require.NoError(t, err)
	assert.Contains(t, strings.Split(string(environ), "\x00"), "GOMAXPROCS=4")

	own, err := os.ReadFile("/proc/self/oom_score_adj")
	require.NoError(t, err)
	score, err := strconv.Atoi(strings.TrimSpace(string(own)))
	require.NoError(t, err)
	adj, err := os.ReadFile(proc + "oom_score_adj")
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(min(score+1, 1000)), strings.TrimSpace(string(adj)), "a shim goes before containerd")

	for fd, want := range map[string]string{"0": "/dev/null", "1": "/dev/null", "2": filepath.Join(b.path, "log")} {
		got, err := os.Readlink(proc + "fd/" + fd)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	info, err := os.ReadFile(proc + "fdinfo/2")
	require.NoError(t, err)
	assert.NotRegexp(t, `flags:\s+0?[0-7]*4[0-7]{3}\n`, string(info), "the log must block, or lines get lost")
}

func TestShimCgroupIsJoined(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		t.Skip("cgroup v1 only")
	}
	name := fmt.Sprintf("nexcage-shim-test-%d", os.Getpid())
	paths, err := filepath.Glob("/sys/fs/cgroup/*")
	require.NoError(t, err)
	for _, p := range paths {
		if _, err := os.Stat(filepath.Join(p, "cgroup.procs")); err != nil || filepath.Base(p) == "unified" {
			continue
		}
		dir := filepath.Join(p, name)
		if err := os.Mkdir(dir, 0o755); os.IsExist(err) {
			continue // cpu and cpuacct are one
		} else {
			require.NoError(t, err)
		}
		t.Cleanup(func() { eventually(t, func() bool { return os.Remove(dir) == nil }, dir) })
		if strings.Contains(p, "cpuset") { // no process without
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				v, err := os.ReadFile(filepath.Join(p, f))
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(dir, f), v, 0))
			}
		}
	}
	c := newWorld(t).bundle("c1", "").start(func(p *bootapi.BootstrapParams) {
		require.NoError(t, p.AddExtension(&options.Options{ShimCgroup: "/" + name}))
	})
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid))
	require.NoError(t, err)
	assert.Contains(t, string(got), ":memory:/"+name+"\n")
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	w := newWorld(t)
	b := w.bundle("c1", "")
	opts := &options.Options{ShimCgroup: "/nexcage/there/is/none"}
	dir := w.sockets()
	params := &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: &dir}
	require.NoError(t, params.AddExtension(opts))
	input, err := proto.Marshal(params)
	require.NoError(t, err)
	stdout, stderr, err := b.run(input, "start")
	require.ErrorAs(t, err, new(*exec.ExitError))
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, `shim_cgroup "/nexcage/there/is/none"`)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestTheCommandLineIsChecked(t *testing.T) {
	b := newWorld(t).bundle("c1", "")
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no namespace": {[]string{"-namespace", "", "start"}, "-namespace is required"},
		"no id":        {[]string{"-id", "", "start"}, "-id is required"},
		"no such verb": {[]string{"stop"}, `verb "stop" is not one of start, delete`},
		"no such flag": {[]string{"-x"}, "flag provided but not defined: -x"},
		"bad input":    {[]string{"start"}, "runtime options on stdin"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := b.run([]byte{0xff}, tt.args...)
			require.ErrorAs(t, err, new(*exec.ExitError))
			assert.Empty(t, stdout)
			assert.Contains(t, stderr, tt.want)
		})
	}
}

// -socket is what some start by hand: containerd gives descriptor 3.
func TestListenMakesTheSocketThatItIsTold(t *testing.T) {
	c := command{socket: filepath.Join(t.TempDir(), "s")}
	l, err := c.listen()
	require.NoError(t, err)
	conn, err := net.Dial("unix", c.socket)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, l.Close())
}
