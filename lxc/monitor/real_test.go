package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// realPath is a lxcpath for a real lxc-monitord, of which nothing must be
// left.
func realPath(t *testing.T) string { return vacated(t, shortDir(t)) }

func vacated(t *testing.T, dir string) string {
	t.Helper()
	t.Cleanup(func() {
		assert.False(t, listens(t, dir), "lxc-monitord is left")
		assert.NoFileExists(t, filepath.Join(dir, lockName))
		fifos := filepath.Join("/run/lxc", dir)
		for d := fifos; d != "/run/lxc"; d = filepath.Dir(d) {
			if os.Remove(d) != nil { // others' are below it
				break
			}
		}
		assert.NoDirExists(t, fifos, "the FIFO is left")
	})
	return dir
}

func listens(t *testing.T, lxcpath string) bool {
	t.Helper()
	conn, err := net.Dial("unix", name(t, lxcpath))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// broadcast does what lxc-start does.
func broadcast(t *testing.T, lxcpath string, messages ...message) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join("/run/lxc", lxcpath, "monitor-fifo"), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	for _, m := range messages {
		b, err := binary.Append(nil, binary.NativeEndian, m)
		require.NoError(t, err)
		_, err = f.Write(b)
		require.NoError(t, err)
	}
}

func TestTheLongestPathThatMonitordTakes(t *testing.T) {
	dir := shortDir(t)
	const longest = 83
	dir = vacated(t, filepath.Join(dir, strings.Repeat("x", longest-1-len(dir))))
	w := watch(t, dir)
	broadcast(t, dir, msg(typeState, "c1", starting), msg(typeExitCode, "c1", 0x700))
	got, err := w.Exit(within(t, 10*time.Second))
	require.NoError(t, err)
	assert.Equal(t, 7, got.ExitStatus())

	_, err = Watch(t.Context(), dir+"x", "c1")
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestManyWatchersShareOneMonitord(t *testing.T) {
	dir := realPath(t)
	const n = 30
	watchers := make([]*Watcher, n)
	var wg sync.WaitGroup
	for i := range watchers {
		wg.Go(func() {
			var err error
			watchers[i], err = Watch(t.Context(), dir, fmt.Sprint("c", i))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprint("c", i)
			broadcast(t, dir, msg(typeState, name, starting), msg(typeExitCode, name, int32(i)<<8))
			got, err := watchers[i].Exit(within(t, 20*time.Second))
			assert.NoError(t, err)
			assert.Equal(t, i, got.ExitStatus())
			assert.NoError(t, watchers[i].Close())
		})
	}
	wg.Wait()
}

func TestTheMarkComesAfterWhatWasBroadcast(t *testing.T) {
	lxcpath := realPath(t)
	one, two := watch(t, lxcpath), watchName(t, lxcpath, "c2")
	for i := range 100 {
		broadcast(t, lxcpath, msg(typeState, "c2", starting), msg(typeExitCode, "other", int32(i)))
	}
	broadcast(t, lxcpath, msg(typeExitCode, "c2", 9))
	ctx := within(t, 10*time.Second)
	require.NoError(t, two.Mark(ctx))
	select {
	case status := <-two.status:
		assert.Equal(t, unix.WaitStatus(9), status)
	default:
		assert.Fail(t, "no status when the mark has come")
	}
	require.NoError(t, one.Mark(ctx), "of a container that nothing was said of")
	assert.Empty(t, one.status)
}

func TestAKilledMonitordIsReplaced(t *testing.T) {
	dir := realPath(t)
	w := watch(t, dir)
	pid, err := peer(w.conn)
	require.NoError(t, err)
	require.True(t, w.lock.started(pid))
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	require.Eventually(t, func() bool { // the old one's FIFO has no reader
		w.mu.Lock()
		defer w.mu.Unlock()
		now, err := peer(w.conn)
		return err == nil && now != pid
	}, 10*time.Second, time.Millisecond)
	broadcast(t, dir, msg(typeState, "c1", starting), msg(typeExitCode, "c1", 0x900))
	got, err := w.Exit(within(t, 10*time.Second))
	require.NoError(t, err)
	assert.Equal(t, 9, got.ExitStatus())
}

func TestSweepEndsWhatDeadWatchersLeft(t *testing.T) {
	dir := realPath(t)
	w, err := Watch(t.Context(), dir, "c1")
	require.NoError(t, err)
	alive := watch(t, dir)
	die(t, w)

	require.NoError(t, Sweep(dir))
	assert.True(t, listens(t, dir), "somebody still watches")
	die(t, alive)
	assert.True(t, listens(t, dir))
	require.NoError(t, Sweep(dir))
	assert.False(t, listens(t, dir))
}

// die does to a watcher what the kernel does when its process dies. Nothing is
// left to be closed then.
func die(t *testing.T, w *Watcher) {
	t.Helper()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	require.NoError(t, w.conn.Close())
	require.NoError(t, w.lock.file.Close())
}

// lxc-start itself, in a mount namespace of its own.
func TestExitStatusesOfLXC(t *testing.T) {
	for script, want := range map[string]unix.WaitStatus{
		"exit 0": 0, "exit 7": 7 << 8, "exit 137": 137 << 8, "exit 143": 143 << 8,
	} {
		t.Run(script, func(t *testing.T) {
			dir := realPath(t)
			configure(t, dir, script)
			w := watch(t, dir)
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			require.NoError(t, err)
			defer out.Close()
			cmd := exec.Command("unshare", "-m", "--propagation", "private", "lxc-start", "-F", "-P", dir, "-n", "c1")
			cmd.Stdout, cmd.Stderr = out, out
			c, err := child.Start(cmd)
			require.NoError(t, err)
			t.Cleanup(func() {
				_ = cmd.Process.Kill() // if it hangs
				<-c.Done()
				_ = os.Remove(filepath.Join("/run/lxc/lock", dir, ".c1"))
				for d := filepath.Join("/run/lxc/lock", dir); d != "/run/lxc/lock" && os.Remove(d) == nil; d = filepath.Dir(d) {
				}
			})
			got, err := w.Exit(within(t, 20*time.Second))
			if !assert.NoError(t, err) {
				text, _ := os.ReadFile(out.Name())
				t.Fatalf("%s", text)
			}
			assert.Equal(t, want, got)
			<-c.Done()
		})
	}
}

// configure makes the container c1, which runs a script of busybox.
func configure(t *testing.T, lxcpath, script string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin", "sh"), busybox, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "init"), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	group := fmt.Sprintf("nexcage-monitor-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	config := strings.Join([]string{
		"lxc.rootfs.path = dir:" + root, "lxc.init.cmd = /init", "lxc.uts.name = c1", "lxc.net.0.type = empty",
		"lxc.autodev = 0", "lxc.console.path = none", "lxc.tty.max = 0", "lxc.pty.max = 0",
		"lxc.cgroup.relative = 0", "lxc.cgroup.dir.container = " + group + "/c", "lxc.cgroup.dir.monitor = " + group + "/m",
		"lxc.cgroup.dir.monitor.pivot = " + group + "/p", "",
	}, "\n")
	require.NoError(t, os.Mkdir(filepath.Join(lxcpath, "c1"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(lxcpath, "c1", "config"), []byte(config), 0o644))
	t.Cleanup(func() { removeGroups(t, group) })
}

// removeGroups removes the directories of a group, which has no processes any
// more, in every hierarchy.
func removeGroups(t *testing.T, group string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		for _, below := range []string{"/p/lxc.pivot", "/p", "/m", "/c", ""} { // deepest first
			dirs, err := filepath.Glob(pattern + group + below)
			require.NoError(t, err)
			for _, d := range dirs {
				if err := os.Remove(d); !errors.Is(err, fs.ErrNotExist) { // a link to a hierarchy
					assert.NoError(t, err)
				}
			}
		}
	}
}
