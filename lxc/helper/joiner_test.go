package helper

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

const allNamespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

// container starts a process in namespaces of its own, as a container's.
func container(t *testing.T, attr *syscall.SysProcAttr) (pid int, pidfd *os.File) {
	t.Helper()
	cmd := exec.Command(busybox, "sleep", "1000")
	cmd.SysProcAttr = attr
	c := startChild(t, cmd)
	fd, err := unix.PidfdOpen(c.Pid(), 0)
	require.NoError(t, err)
	pidfd = os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { pidfd.Close() })
	return c.Pid(), pidfd
}

func joiner(t *testing.T) *Joiner {
	t.Helper()
	j, err := NewJoiner(filepath.Join(built, "nexcage-init"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

func join(t *testing.T, ops []initop.Op, files ...*os.File) *Joined {
	t.Helper()
	reap(t)
	joined, err := joiner(t).Join(t.Context(), ops, files...)
	require.NoError(t, err)
	t.Cleanup(func() {
		joined.Close()
		_ = unix.PidfdSendSignal(int(joined.PIDFD.Fd()), unix.SIGKILL, nil, 0)
		<-joined.Child.Done()
		joined.PIDFD.Close()
	})
	return joined
}

func nsLink(t *testing.T, pid int, ns string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", itoa(pid), "ns", ns))
	require.NoError(t, err)
	return link
}

func TestJoinedProcessIsInTheNamespacesAndAChildOfTheShim(t *testing.T) {
	target, pidfd := container(t, &syscall.SysProcAttr{Cloneflags: allNamespaces})
	joined := join(t, []initop.Op{initop.SetNS(0, allNamespaces), initop.Fork(), initop.Umask(0)}, pidfd)
	pid := joined.Child.Pid()
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net"} {
		assert.Equal(t, nsLink(t, target, ns), nsLink(t, pid, ns), ns)
		assert.NotEqual(t, nsLink(t, os.Getpid(), ns), nsLink(t, pid, ns), ns)
	}
	assert.Equal(t, itoa(os.Getpid()), procStatus(t, pid, "PPid"))
	assert.Equal(t, itoa(pid)+"\t2", procStatus(t, pid, "NSpid"))
	assert.Equal(t, pid, pidOf(t, joined.PIDFD))

	require.NoError(t, joined.Run(t.Context(), []initop.Op{initop.Lookup(busybox, "")}))
	require.NoError(t, joined.Exec(t.Context(), []initop.Op{initop.Exec([]string{"busybox", "sh", "-c", "exit $$$$"}, nil)}))
	exit, err := joined.Child.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 22, exit.Status, "its pid inside, twice")
}

func procStatus(t *testing.T, pid int, key string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "status"))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n"+key+":\t")
	require.True(t, found)
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// pidOf is the process that a pidfd refers to.
func pidOf(t *testing.T, pidfd *os.File) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", itoa(int(pidfd.Fd()))))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\nPid:\t")
	require.True(t, found)
	value, _, _ := strings.Cut(rest, "\n")
	return atoi(t, value)
}

func TestJoinedProcessIsRootOfAUserNamespace(t *testing.T) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	_, pidfd := container(t, &syscall.SysProcAttr{
		Cloneflags: allNamespaces | unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		GidMappingsEnableSetgroups: true,
	})
	r, w := pipe(t)
	joined := join(t, []initop.Op{
		initop.SetNS(0, allNamespaces|unix.CLONE_NEWUSER), initop.SetGroups(nil), initop.SetGID(0), initop.SetUID(0),
		initop.Fork(), initop.Dup2(1, 1),
	}, pidfd, w)
	w.Close()
	require.NoError(t, joined.Exec(t.Context(), program("sh", "-c", "id -u; cat /proc/self/uid_map")))
	assert.Equal(t, []string{"0", "0", "100000", "65536"}, strings.Fields(readAll(t, r)))
}

func TestJoinedProcessIsInTheCgroup(t *testing.T) {
	dir, line := newCgroup(t)
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer procs.Close()
	joined := join(t, []initop.Op{initop.JoinCgroup(0), initop.Fork()}, procs)
	text, err := os.ReadFile(filepath.Join("/proc", itoa(joined.Child.Pid()), "cgroup"))
	require.NoError(t, err)
	assert.Contains(t, string(text), line)
}

func TestJoinedProcessHasNothingOfTheShim(t *testing.T) {
	t.Setenv("SECRET", "x")
	fd, err := unix.Dup(1) // without CLOEXEC
	require.NoError(t, err)
	defer unix.Close(fd)
	joined := join(t, []initop.Op{initop.Fork()})
	pid := joined.Child.Pid()
	env, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "environ"))
	require.NoError(t, err)
	assert.Empty(t, env)
	assert.Equal(t, 4, openFiles(t, pid), "stdio and the socket")
	cwd, err := os.Readlink(filepath.Join("/proc", itoa(pid), "cwd"))
	require.NoError(t, err)
	assert.Equal(t, "/", cwd)
}

func TestHelpersFileCanNotBeWritten(t *testing.T) {
	joined := join(t, []initop.Op{initop.Fork()})
	exe, err := os.Open(filepath.Join("/proc", itoa(joined.Child.Pid()), "exe"))
	require.NoError(t, err)
	defer exe.Close()
	assert.ErrorIs(t, unix.Access("/proc/self/fd/"+itoa(int(exe.Fd())), unix.W_OK), unix.EROFS)
}

func TestHelperCanNotBeTracedByAnotherUser(t *testing.T) {
	joined := join(t, []initop.Op{initop.Fork(), initop.SetGroups(nil), initop.SetGID(65534), initop.SetUID(65534)})
	cmd := exec.Command(busybox, "readlink", filepath.Join("/proc", itoa(joined.Child.Pid()), "exe"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	c := startChild(t, cmd)
	<-c.Done()
	assert.Equal(t, 1, c.Exit().Status)
}

func TestJoinThatFailsLeavesNoProcess(t *testing.T) {
	_, pidfd := container(t, &syscall.SysProcAttr{Cloneflags: allNamespaces})
	for _, tt := range []struct {
		name  string
		ops   []initop.Op
		files []*os.File
		index int
	}{
		{"before fork", []initop.Op{initop.SetUID(1), initop.SetUID(2), initop.Fork()}, nil, 1},
		{"after fork", []initop.Op{initop.Fork(), initop.Chdir("/nowhere")}, nil, 1},
		{"after fork in a pid namespace", []initop.Op{initop.SetNS(0, allNamespaces), initop.Fork(), initop.Chdir("/nowhere")}, []*os.File{pidfd}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reap(t)
			before := children(t)
			_, err := joiner(t).Join(t.Context(), tt.ops, tt.files...)
			var failed *OpError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, tt.index, failed.Index)
			assert.Eventually(t, func() bool { return len(children(t)) == len(before) }, 10*time.Second, time.Millisecond)
		})
	}
}

func TestAnOperationThatFailsNamesItsProperty(t *testing.T) {
	conn, _ := waiting(t)
	err := conn.Run(t.Context(), []initop.Op{initop.Mempolicy(0x7f, nil).Of("linux.memoryPolicy")})
	assert.EqualError(t, err, "linux.memoryPolicy: set memory policy 0x7f of nodes [] failed: invalid argument")
	assert.ErrorIs(t, err, unix.EINVAL)
}

// children of the test, zombies included.
func children(t *testing.T) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var pids []string
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err == nil { // the thread may be gone
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	return pids
}

func TestJoinEndsWithItsContext(t *testing.T) {
	reap(t)
	before := children(t)
	r, w := pipe(t)
	require.NoError(t, unix.SetNonblock(int(w.Fd()), false))
	full := make([]byte, 1<<20) // more than a pipe holds: the helper hangs
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := joiner(t).Join(ctx, []initop.Op{initop.Fork(), initop.WriteFD(0, full)}, w)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Eventually(t, func() bool { return len(children(t)) == len(before) }, 10*time.Second, time.Millisecond)
	r.Close()
}

func TestJoinNeedsOneForkAndNoExec(t *testing.T) {
	j := joiner(t)
	for name, ops := range map[string][]initop.Op{
		"none": nil,
		"two":  {initop.Fork(), initop.Fork()},
		"exec": append([]initop.Op{initop.Fork()}, program("true")...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := j.Join(t.Context(), ops)
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestJoinerNeedsAHelper(t *testing.T) {
	_, err := NewJoiner("/nowhere/nexcage-init")
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "/nowhere/nexcage-init")
}
