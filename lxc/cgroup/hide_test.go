package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestHideKeepsLXCFromTheHierarchies(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	var list, there []byte
	require.NoError(t, Hide(func() (err error) {
		if list, err = exec.Command("/bin/ls", "-A", mountPoint).Output(); err != nil {
			return err
		}
		there, err = exec.Command("/bin/readlink", "/proc/self/ns/mnt").Output()
		return err
	}))
	assert.Empty(t, list)
	assert.NotContains(t, string(there), here)
	entries, err := os.ReadDir(mountPoint)
	require.NoError(t, err)
	assert.NotEmpty(t, entries, "only there")
	assert.ErrorIs(t, Hide(func() error { return unix.EIO }), unix.EIO)
}

// The main thread never ends: what it did would be done to the process.
func TestHideLeavesTheProcessWhereItIs(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	for range 50 { // on whichever thread
		require.NoError(t, Hide(func() error {
			assert.NotEqual(t, unix.Getpid(), unix.Gettid())
			return nil
		}))
		now, err := os.Readlink("/proc/self/ns/mnt")
		require.NoError(t, err)
		assert.Equal(t, here, now)
	}
}

func TestHideHoldsNoSnapshots(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rootfs")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, unix.Mount("x", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	require.NoError(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	require.NoError(t, Hide(func() error {
		mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
		assert.NotContains(t, string(mounts), dir)
		return err
	}))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	assert.Contains(t, string(mounts), dir)
}

// lxcConfig is a container that is nothing but /bin/busybox.
const lxcConfig = `lxc.rootfs.path = dir:%[1]s/base
lxc.mount.entry = /bin/busybox sleep none bind,ro,nosuid,nodev 0 0
lxc.init.cmd = /sleep 1000
lxc.mount.auto = proc:rw
lxc.autodev = 0
lxc.console.path = none
lxc.tty.max = 0
lxc.pty.max = 0
lxc.cgroup.relative = 0
lxc.namespace.clone = mnt pid uts ipc net
lxc.net.0.type = empty
`

// startLXC returns lxc-start and the pid of the container's init process.
func startLXC(t *testing.T, name string) (*exec.Cmd, int) {
	t.Helper()
	for _, program := range []string{"/usr/bin/lxc-start", "/bin/busybox"} {
		require.FileExists(t, program)
	}
	dir := t.TempDir()
	for _, d := range []string{"base/proc", "base/dev", "lxc/" + name} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "base/sleep"), nil, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lxc", name, "config"), fmt.Appendf(nil, lxcConfig, dir), 0o644))
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join("/run/lxc/lock", filepath.Dir(dir))) })
	cmd := exec.Command("/usr/bin/lxc-start", "-F", "-n", name, "-P", filepath.Join(dir, "lxc"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	require.NoError(t, Hide(cmd.Start))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var pid int
	require.Eventually(t, func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return false
		}
		if _, err := fmt.Sscan(string(children), &pid); err != nil {
			return false
		}
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && strings.HasPrefix(string(argv), "/sleep\x00")
	}, 10*time.Second, 5*time.Millisecond)
	return cmd, pid
}

func TestLXCLeavesTheGroupToUs(t *testing.T) {
	both(t, func(t *testing.T, h *host) {
		g := newGroup(t, h)
		name := fmt.Sprintf("nexcage-cgroup-lxc-%d", os.Getpid())
		cmd, pid := startLXC(t, name)
		before, err := os.ReadFile("/proc/self/cgroup")
		require.NoError(t, err)
		made, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		require.NoError(t, err)
		assert.Equal(t, string(before), string(made), "LXC moved nobody")

		for _, p := range g.places {
			require.NoError(t, write(filepath.Join(p.dir, "cgroup.procs"), fmt.Sprint(pid)))
		}
		pids, err := g.Pids()
		require.NoError(t, err)
		assert.Equal(t, []int{pid}, pids)
		require.NoError(t, g.KillAndWait(t.Context()))
		require.NoError(t, cmd.Wait(), "lxc-start")
		_, err = g.Stats()
		assert.NoError(t, err, "the figures of the end")
		for _, v := range h.all() {
			found, err := filepath.Glob(filepath.Join(v.mount, "*", "*"+name+"*"))
			require.NoError(t, err)
			assert.Empty(t, found)
		}
	})
}
