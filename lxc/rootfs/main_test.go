package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	roleVar   = "ROOTFS_TEST_ROLE"
	roleTest  = "test" // in a mount namespace of its own
	roleAgent = "init" // PID 1 of a container
	roleCrun  = "crun" // becomes crun, see runCrun
)

// TestMain runs the tests in a mount namespace of their own, in which nothing
// propagates to the machine's. The binary is also the init of the containers.
func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case roleTest:
		os.Exit(m.Run())
	case roleAgent:
		if err := runAgent(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case roleCrun:
		fmt.Fprintln(os.Stderr, becomeCrun(os.Args[1:]))
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleTest)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// container is a stand-in for what LXC starts: a process in new namespaces,
// on a base directory with root/ and a mounted proc/, that waits.
type container struct {
	Target
	t    testing.TB
	sock *os.File
	enc  *json.Encoder
	dec  *json.Decoder
	stop func() // kills it and waits for its end
}

type request struct {
	Op, Path, Data string
}

type reply struct {
	Data  string
	Errno unix.Errno
	Err   string
}

const allNew = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

func startContainer(t testing.TB, namespaces uintptr) *container {
	t.Helper()
	return startContainerWith(t, &syscall.SysProcAttr{Cloneflags: namespaces})
}

func startContainerWith(t testing.TB, attr *syscall.SysProcAttr) *container {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"root", "proc", "dev", "helper"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, dir), 0o755))
	}
	if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
		giveToRoot(t, base, attr)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	defer theirs.Close()

	pidfd := -1
	cmd := exec.Command("/proc/self/exe", base)
	cmd.Env = []string{roleVar + "=" + roleAgent}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = attr
	attr.PidFD = &pidfd
	require.NoError(t, cmd.Start())
	c := &container{
		Target: Target{PID: cmd.Process.Pid, PIDFD: os.NewFile(uintptr(pidfd), "pidfd")},
		t:      t, sock: ours, enc: json.NewEncoder(ours), dec: json.NewDecoder(ours),
	}
	c.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = errors.Join(c.PIDFD.Close(), ours.Close())
	})
	t.Cleanup(c.stop)
	c.call(request{Op: "ready"})
	return c
}

func (c *container) call(r request) reply {
	c.t.Helper()
	require.NoError(c.t, c.enc.Encode(r))
	var answer reply
	require.NoError(c.t, c.dec.Decode(&answer))
	return answer
}

// read returns a file as the container sees it.
func (c *container) read(path string) string {
	c.t.Helper()
	r := c.call(request{Op: "read", Path: path})
	require.Empty(c.t, r.Err, path)
	return r.Data
}

// write returns the error that the container gets.
func (c *container) write(path, data string) error {
	c.t.Helper()
	if r := c.call(request{Op: "write", Path: path, Data: data}); r.Err != "" {
		return fmt.Errorf("%s: %w", r.Err, r.Errno)
	}
	return nil
}

// list returns "mode owner:group [device] name [-> target]" for each entry.
func (c *container) list(path string) []string {
	c.t.Helper()
	r := c.call(request{Op: "list", Path: path})
	require.Empty(c.t, r.Err, path)
	return strings.Split(strings.TrimSuffix(r.Data, "\n"), "\n")
}

func (c *container) stat(path string) string {
	c.t.Helper()
	r := c.call(request{Op: "stat", Path: path})
	if r.Err != "" {
		return r.Err
	}
	return r.Data
}

// mounts returns mountinfo without ids and devices, as
// "root destination options [propagation] - type source options".
func (c *container) mounts() []string {
	c.t.Helper()
	return normalise(c.read("/proc/self/mountinfo"))
}

func normalise(mountinfo string) []string {
	var lines []string
	for line := range strings.Lines(mountinfo) {
		lines = append(lines, strings.Join(strings.Fields(line)[3:], " "))
	}
	return lines
}

// mount returns the line of one destination; "" if there is none.
func (c *container) mount(dest string) string {
	c.t.Helper()
	found := ""
	for _, line := range c.mounts() {
		if strings.Fields(line)[1] == dest {
			found = line
		}
	}
	return found
}

func runAgent(base string) error {
	runtime.LockOSThread()
	if err := enterBase(base); err != nil {
		return err
	}
	sock := os.NewFile(3, "agent")
	dec, enc := json.NewDecoder(sock), json.NewEncoder(sock)
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		data, err := serve(r)
		answer := reply{Data: data}
		if err != nil {
			answer.Err = err.Error()
			errors.As(err, &answer.Errno)
		}
		if err := enc.Encode(answer); err != nil {
			return err
		}
	}
}

// enterBase does what LXC does with `lxc.mount.auto = proc:rw` and a mount
// entry for the helper.
func enterBase(base string) error {
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") },
		func() error { return unix.Mount(base, base, "", unix.MS_BIND, "") },
		func() error { return unix.Mount(base, base+"/helper", "", unix.MS_BIND, "") },
		func() error {
			return unix.Mount("proc", base+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error { return unix.Chdir(base) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func serve(r request) (string, error) {
	switch r.Op {
	case "ready":
		return "", nil
	case "read":
		data, err := os.ReadFile(r.Path)
		return string(data), err
	case "write":
		return "", os.WriteFile(r.Path, []byte(r.Data), 0o644)
	case "mkdir":
		return "", os.Mkdir(r.Path, 0o755)
	case "fsopen": // its descriptor
		fd, err := unix.Fsopen(r.Path, unix.FSOPEN_CLOEXEC)
		return strconv.Itoa(fd), err
	case "mount":
		return "", unix.Mount("agent", r.Path, "tmpfs", 0, "")
	case "umount":
		return "", unix.Unmount(r.Path, unix.MNT_DETACH)
	case "readlink":
		return os.Readlink(r.Path)
	case "stat":
		return describe(r.Path)
	case "hostname":
		return os.Hostname()
	case "list":
		entries, err := os.ReadDir(r.Path)
		var all strings.Builder
		for _, e := range entries {
			line, err := describe(filepath.Join(r.Path, e.Name()))
			if err != nil {
				return "", err
			}
			fmt.Fprintln(&all, line)
		}
		return all.String(), err
	case "open": // keeps the file open for good
		_, err := unix.Open(r.Path, unix.O_RDWR, 0)
		return "", err
	}
	return "", fmt.Errorf("unknown operation %q", r.Op)
}

func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	line += " " + filepath.Base(path)
	if target, err := os.Readlink(path); err == nil {
		line += " -> " + target
	}
	return line, nil
}
