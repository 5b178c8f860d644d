package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpensRegularFilesOfTheContainerOnly(t *testing.T) {
	sentinel := outside(t)
	c := startContainer(t, allNew)
	image := tree(t, "etc/passwd=root:x:0:0\n", "etc/link->/etc/passwd", "etc/out->"+sentinel+"/etc/passwd", "etc/self->/proc/self/root/etc/passwd", "etc/zero->/dev/zero")
	require.NoError(t, unix.Mkfifo(image+"/etc/fifo", 0o600))
	root := build(t, c, defaultPlan(image))
	for path, want := range map[string]error{
		"/etc/passwd": nil, "etc/passwd": nil, "/etc/link": nil, "/../etc/passwd": nil,
		"/etc/out": fs.ErrNotExist, "/etc/nosuch": fs.ErrNotExist, "/etc/self": fs.ErrNotExist,
		"/etc/fifo": unix.ENXIO, "/etc/zero": unix.ENXIO, "/etc": unix.ENXIO, "/proc/1/root/etc/passwd": unix.ELOOP,
	} {
		f, err := root.Open(path)
		require.ErrorIs(t, err, want, path)
		if want != nil {
			continue
		}
		data, err := io.ReadAll(f)
		require.NoError(t, errors.Join(err, f.Close()))
		assert.Equal(t, "root:x:0:0\n", string(data))
	}
}

func terminal() *specs.Process {
	return &specs.Process{Cwd: "/", Terminal: true, ConsoleSize: &specs.Box{Width: 132, Height: 43}, User: specs.User{UID: 1234}}
}

func TestConsoleIsAPtyOfTheContainerBoundToDevConsole(t *testing.T) {
	c := startContainer(t, allNew)
	p := defaultPlan(t.TempDir())
	p.Process = terminal()
	p.Mounts[1].Set |= ro // /dev
	root := build(t, c, p)
	master, slave, err := root.Console(p.Process, true)
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(master.Close(), slave.Close())) }()

	assert.Equal(t, "20620 1234:5 136:0 0", c.stat("/dev/pts/0"))
	assert.Equal(t, "20620 1234:5 136:0 console", c.stat("/dev/console"))
	assert.Equal(t, "/0 /dev/console rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666", c.mount("/dev/console"))
	require.NoError(t, using(slave, func(h handle) error {
		size, err := unix.IoctlGetWinsize(int(h), unix.TIOCGWINSZ)
		require.NoError(t, err)
		assert.Equal(t, unix.Winsize{Row: 43, Col: 132}, *size)
		return nil
	}))
	require.NoError(t, c.write("/dev/console", "hello\n"))
	buf := make([]byte, 64)
	n, err := master.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello\r\n", string(buf[:n]))
}

func TestTheMasterCanBeClosedWhileItIsRead(t *testing.T) {
	c := startContainer(t, allNew)
	root := build(t, c, defaultPlan(t.TempDir()))
	master, slave, err := root.Console(terminal(), false)
	require.NoError(t, err)
	defer slave.Close()
	ended := make(chan error)
	go func() {
		_, err := master.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, master.Close())
	require.ErrorIs(t, <-ended, os.ErrClosed)
}

func TestAnExecGetsAConsoleOfItsOwn(t *testing.T) {
	c := startContainer(t, allNew)
	p := defaultPlan(t.TempDir())
	root := build(t, c, p)
	mounts := c.mounts()
	for i := range 2 {
		master, slave, err := root.Console(&specs.Process{User: specs.User{UID: 5}}, false)
		require.NoError(t, err)
		defer func() { require.NoError(t, errors.Join(master.Close(), slave.Close())) }()
		assert.Equal(t, []string{"20620 5:5 136:0 0", "20620 5:5 136:1 1"}[i], c.stat("/dev/pts/"+[]string{"0", "1"}[i]))
	}
	assert.Equal(t, mounts, c.mounts())
	assert.Contains(t, c.stat("/dev/console"), "no such file")
}

func TestConsoleIsNotFooledByWhatTheContainerMountsLater(t *testing.T) {
	c := startContainer(t, allNew)
	root := build(t, c, defaultPlan(t.TempDir()))
	require.Empty(t, c.call(request{Op: "mount", Path: "/dev/pts"}).Err)
	require.NoError(t, c.write("/dev/pts/ptmx", "fake"))
	master, slave, err := root.Console(terminal(), false)
	require.NoError(t, err)
	require.NoError(t, errors.Join(master.Close(), slave.Close()))
}

func TestSaysThatThereIsNoDevpts(t *testing.T) {
	c := startContainer(t, allNew)
	root := build(t, c, planOf(t.TempDir(), procMount(), tmpfsMount("/dev/pts")))
	_, _, err := root.Console(terminal(), true)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "process.terminal: the container has no devpts")
}

func count(t testing.TB, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return len(entries)
}

func TestLeavesNothingBehind(t *testing.T) {
	mounts := hostMounts(t)
	image := t.TempDir()
	cycle := func(spoil bool) {
		c := startContainer(t, allNew)
		defer c.stop()
		p := defaultPlan(image)
		p.Process = terminal()
		if spoil {
			p.MaskedPaths = append(p.MaskedPaths, "/proc/1/root/x") // fails late
		}
		root, err := Build(t.Context(), c.Target, p, nil)
		if spoil {
			require.ErrorIs(t, err, unix.ELOOP)
			return
		}
		require.NoError(t, err)
		master, slave, err := root.Console(p.Process, true)
		require.NoError(t, errors.Join(err, master.Close(), slave.Close(), root.Close(), root.Close()))
	}
	for i := range 5 {
		cycle(i == 0)
	}
	runtime.GC() // the pidfds of os/exec
	fds, threads, routines := count(t, "/proc/self/fd"), count(t, "/proc/self/task"), runtime.NumGoroutine()
	for i := range 100 {
		cycle(i%4 == 0)
	}
	runtime.GC()
	assert.LessOrEqual(t, count(t, "/proc/self/fd"), fds, "descriptors")
	assert.LessOrEqual(t, runtime.NumGoroutine(), routines, "goroutines")
	// The kernel removes the last thread a moment after its goroutine.
	assert.Eventually(t, func() bool { return count(t, "/proc/self/task") <= threads+3 }, 5*time.Second, 10*time.Millisecond, "threads")
	assert.Equal(t, mounts, hostMounts(t))
}

func TestTheMainThreadIsNeverUsed(t *testing.T) {
	// Only the main thread shows in /proc/self, and Go may schedule any
	// goroutine on it: so many calls meet it.
	for range 200 {
		require.NoError(t, onThread(func() error {
			assert.NotEqual(t, unix.Getpid(), unix.Gettid())
			return nil
		}))
	}
	var here, self unix.Stat_t
	require.NoError(t, unix.Stat("/proc/thread-self/ns/mnt", &here))
	require.NoError(t, unix.Stat("/proc/self/ns/mnt", &self))
	assert.Equal(t, here.Ino, self.Ino)
}

func TestTheTestsAreInAMountNamespaceOfTheirOwn(t *testing.T) {
	outer, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	require.NoError(t, err)
	own, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	assert.NotEqual(t, outer, own)
	assert.NotContains(t, hostMounts(t), " shared:")
}
