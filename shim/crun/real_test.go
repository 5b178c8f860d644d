package crun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// privateEnv says that the test binary runs in a mount namespace of its own.
const privateEnv = "NEXCAGE_TEST_PRIVATE_MOUNTS"

// inPrivateMounts runs a test again in a process with its own mount namespace,
// where a cgroup2 beside cgroup v1, which crun does not work with, is hidden.
// It returns true in that process.
func inPrivateMounts(t *testing.T) bool {
	if os.Getenv(privateEnv) != "" {
		if checkCgroups(hostCgroups) != nil {
			hideCgroup2(t)
		}
		return true
	}
	_, err := exec.LookPath("crun")
	require.NoError(t, err)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1", "-test.timeout=2m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // Go makes the mounts private
	c, err := child.Start(cmd)
	require.NoError(t, err)
	exit, err := c.Wait(context.Background())
	require.NoError(t, err)
	b, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	t.Logf("%s", b)
	require.Zero(t, exit.Status, "the test in the mount namespace failed")
	return false
}

// hideCgroup2 puts another directory with the same cgroup v1 hierarchies over
// the host's. (Without the mount, crun would use the directory beneath.)
func hideCgroup2(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "mode=755"))
	entries, err := os.ReadDir(hostCgroups)
	require.NoError(t, err)
	for _, e := range entries {
		from, to := filepath.Join(hostCgroups, e.Name()), filepath.Join(dir, e.Name())
		switch {
		case e.Name() == "unified":
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(from)
			require.NoError(t, err)
			require.NoError(t, os.Symlink(target, to))
		default:
			require.NoError(t, os.Mkdir(to, 0o755))
			require.NoError(t, unix.Mount(from, to, "", unix.MS_BIND, ""))
		}
	}
	require.NoError(t, unix.Mount(dir, hostCgroups, "", unix.MS_MOVE, ""))
}

// realBundle makes a bundle for busybox.
func realBundle(t *testing.T, args ...string) string {
	t.Helper()
	var namespaces []specs.LinuxNamespace
	for _, ns := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.NetworkNamespace} {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: ns})
	}
	dir := newBundle(t, &specs.Spec{
		Version: "1.3.0", // Debian 12's crun refuses it
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:   &specs.Linux{Namespaces: namespaces, CgroupsPath: fmt.Sprintf("/nexcage-test-%d/%s", os.Getpid(), filepath.Base(t.TempDir()))},
	})
	bin := filepath.Join(dir, "rootfs", "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "rootfs", "dev"), 0o755))
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "sh"), busybox, 0o755))
	require.NoError(t, os.Symlink("sh", filepath.Join(bin, "tail")))
	return dir
}

// realService makes a service for the real crun, with its state in a
// temporary directory.
func realService(t *testing.T) (context.Context, *Service, *recorder) {
	t.Helper()
	ctx, s, r := newService(t, Options{Root: t.TempDir()})
	s.cgroupRoot = hostCgroups
	t.Cleanup(func() { // crun leaves the parent directories of its cgroups
		dirs, err := filepath.Glob(fmt.Sprintf("%s/*/nexcage-test-%d", hostCgroups, os.Getpid()))
		require.NoError(t, err)
		for _, dir := range append(dirs, fmt.Sprintf("%s/nexcage-test-%d", hostCgroups, os.Getpid())) {
			if err := os.Remove(dir); err != nil {
				assert.ErrorIs(t, err, os.ErrNotExist)
			}
		}
	})
	root := s.options.Root
	t.Cleanup(func() { // what a failed test has left
		containers, err := os.ReadDir(filepath.Join(root, "test"))
		require.True(t, err == nil || errors.Is(err, os.ErrNotExist), "%v", err)
		for _, c := range containers {
			_, _, err := output(context.Background(), "/usr/bin/env", "crun", "--root", filepath.Join(root, "test"), "delete", "--force", c.Name())
			assert.NoError(t, err)
		}
	})
	return ctx, s, r
}

func TestRealContainer(t *testing.T) {
	if !inPrivateMounts(t) {
		return
	}
	ctx, s, r := realService(t)
	stdout := filepath.Join(t.TempDir(), "stdout")
	id := "nexcage-real"
	bundle := realBundle(t, "/bin/sh", "-c", "echo hello; read x; exit 7")
	fifo := filepath.Join(t.TempDir(), "stdin")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	stdin, err := os.OpenFile(fifo, os.O_RDWR, 0)
	require.NoError(t, err)
	defer stdin.Close()

	created, err := s.Create(ctx, &task.CreateTaskRequest{ID: id, Bundle: bundle, Stdin: fifo, Stdout: "file://" + stdout})
	require.NoError(t, err)
	state, err := s.State(ctx, &task.StateRequest{ID: id})
	require.NoError(t, err)
	assert.Equal(t, tasktypes.Status_CREATED, state.Status)
	assert.Equal(t, created.Pid, state.Pid)
	assert.FileExists(t, fmt.Sprintf("/proc/%d/ns/net", created.Pid))

	_, err = s.Start(ctx, &task.StartRequest{ID: id})
	require.NoError(t, err)
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: id})
	assert.Error(t, err, "it runs")

	process, err := typeurl.MarshalAnyToProto(&specs.Process{Args: []string{"/bin/sh", "-c", "exit 3"}, Cwd: "/"})
	require.NoError(t, err)
	_, err = s.Exec(ctx, &task.ExecProcessRequest{ID: id, ExecID: "x", Spec: process})
	require.NoError(t, err)
	_, err = s.Start(ctx, &task.StartRequest{ID: id, ExecID: "x"})
	require.NoError(t, err)
	execed, err := s.Wait(ctx, &task.WaitRequest{ID: id, ExecID: "x"})
	require.NoError(t, err)
	assert.EqualValues(t, 3, execed.ExitStatus)
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: id, ExecID: "x"})
	require.NoError(t, err)

	_, err = io.WriteString(stdin, "go\n")
	require.NoError(t, err)
	exit, err := s.Wait(ctx, &task.WaitRequest{ID: id})
	require.NoError(t, err)
	assert.EqualValues(t, 7, exit.ExitStatus)
	deleted, err := s.Delete(ctx, &task.DeleteRequest{ID: id})
	require.NoError(t, err)
	assert.EqualValues(t, 7, deleted.ExitStatus)
	assert.Equal(t, created.Pid, deleted.Pid)
	require.NoError(t, s.Close(ctx))

	out, err := os.ReadFile(stdout)
	require.NoError(t, err)
	assert.Equal(t, "hello\n", string(out))
	assert.Equal(t, []string{
		"/tasks/create " + id, "/tasks/start " + id, "/tasks/exec-added " + id, "/tasks/exec-started " + id,
		"/tasks/exit x of " + id, "/tasks/exit " + id, "/tasks/delete " + id,
	}, r.events())
}

func TestRealEventsAreComplete(t *testing.T) {
	if !inPrivateMounts(t) {
		return
	}
	const workers, rounds = 4, 15
	ctx, s, r := realService(t)
	var wg sync.WaitGroup
	for w := range workers {
		bundle := realBundle(t, "/bin/sh", "-c", ":")
		wg.Go(func() {
			for range rounds {
				if !assert.NoError(t, shortLife(ctx, s, fmt.Sprintf("nexcage-short-%d", w), bundle)) {
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, s.Close(ctx))
	got := r.events()
	assert.Len(t, got, workers*rounds*4)
	next := map[string]int{}
	for _, e := range got {
		topic, id, _ := strings.Cut(e, " ")
		want := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}[next[id]%4]
		require.Equal(t, want, topic, "%s in %v", id, got)
		next[id]++
	}
}

// shortLife runs a container that ends at once, and deletes it as soon as it
// is known to have ended.
func shortLife(ctx context.Context, s *Service, id, bundle string) error {
	if _, err := s.Create(ctx, &task.CreateTaskRequest{ID: id, Bundle: bundle}); err != nil {
		return err
	}
	if _, err := s.Start(ctx, &task.StartRequest{ID: id}); err != nil {
		return err
	}
	if _, err := s.Wait(ctx, &task.WaitRequest{ID: id}); err != nil {
		return err
	}
	_, err := s.Delete(ctx, &task.DeleteRequest{ID: id})
	return err
}

func TestRealContainerThatIsNeverStarted(t *testing.T) {
	if !inPrivateMounts(t) {
		return
	}
	ctx, s, r := realService(t)
	created, err := s.Create(ctx, &task.CreateTaskRequest{ID: "nexcage-never", Bundle: realBundle(t, "/bin/sh")})
	require.NoError(t, err)
	begin := time.Now()
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: "nexcage-never"})
	require.NoError(t, err)
	require.NoError(t, s.Close(ctx))
	assert.Less(t, time.Since(begin), exitWait, "the exit was seen")
	assert.Equal(t, []string{"/tasks/create nexcage-never", "/tasks/exit nexcage-never", "/tasks/delete nexcage-never"}, r.events())
	assert.NoDirExists(t, "/proc/"+strconv.Itoa(int(created.Pid)))
}

func TestRealContainerWithoutMemory(t *testing.T) {
	if !inPrivateMounts(t) {
		return
	}
	ctx, s, r := realService(t)
	id := "nexcage-oom"
	bundle := realBundle(t, "/bin/tail", "/dev/zero")
	b, err := loadBundle(bundle)
	require.NoError(t, err)
	limited := strings.Replace(string(b.raw), `"linux":{`, `"linux":{"resources":{"memory":{"limit":8388608,"swap":8388608}},`, 1)
	require.NoError(t, os.WriteFile(b.configPath(), []byte(limited), 0o644))

	_, err = s.Create(ctx, &task.CreateTaskRequest{ID: id, Bundle: bundle})
	require.NoError(t, err)
	_, err = s.Start(ctx, &task.StartRequest{ID: id})
	require.NoError(t, err)
	exit, err := s.Wait(ctx, &task.WaitRequest{ID: id})
	require.NoError(t, err)
	assert.EqualValues(t, 137, exit.ExitStatus)
	assert.ElementsMatch(t, []string{"/tasks/create " + id, "/tasks/start " + id, "/tasks/oom " + id, "/tasks/exit " + id}, r.wait(t, 4))
	_, err = s.Delete(ctx, &task.DeleteRequest{ID: id})
	require.NoError(t, err)
	require.NoError(t, s.Close(ctx))
	assert.Len(t, r.events(), 5)
}

func TestRealCreateThatFails(t *testing.T) {
	if !inPrivateMounts(t) {
		return
	}
	ctx, s, r := realService(t)
	bundle := realBundle(t, "/bin/nosuch")
	b, err := loadBundle(bundle)
	require.NoError(t, err)
	ran := filepath.Join(t.TempDir(), "ran")
	hook := func(name string) string {
		return fmt.Sprintf(`[{"path":"/bin/sh","args":["sh","-c","echo %s >>%s"]}]`, name, ran)
	}
	with := fmt.Sprintf(`{"hooks":{"createRuntime":%s,"poststop":%s},`, hook("createRuntime"), hook("poststop"))
	require.NoError(t, os.WriteFile(b.configPath(), []byte(with+string(b.raw[1:])), 0o644))

	_, err = s.Create(ctx, &task.CreateTaskRequest{ID: "nexcage-fail", Bundle: bundle})
	assert.ErrorContains(t, err, "`/bin/nosuch` not found")
	got, err := os.ReadFile(ran)
	require.NoError(t, err)
	assert.Equal(t, "createRuntime\npoststop\n", string(got))
	_, err = s.State(ctx, &task.StateRequest{ID: "nexcage-fail"})
	assert.True(t, errdefs.IsNotFound(errgrpc.ToNative(err)))
	require.NoError(t, s.Close(ctx))
	assert.Empty(t, r.events())
}
