package helper

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

const (
	netRaw   = uint64(1) << unix.CAP_NET_RAW
	setPCap  = uint64(1) << unix.CAP_SETPCAP
	sysAdmin = uint64(1) << unix.CAP_SYS_ADMIN
)

// refuse is a seccomp program that lets a system call fail with EPERM.
func refuse(nr uint32) []byte {
	var b []byte
	for _, f := range []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	} {
		b, _ = binary.Append(b, binary.LittleEndian, f)
	}
	return b
}

// asUser changes to another user and keeps permitted capabilities.
var asUser = []initop.Op{initop.KeepCaps(), initop.SetGroups(nil), initop.SetGID(1001), initop.SetUID(1000)}

func TestHelperDoesOperations(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	status := []string{"cat", "/proc/self/status"}
	for _, tt := range []struct {
		name string
		ops  []initop.Op
		args []string
		want []string // regular expressions
	}{
		{
			"user and groups",
			[]initop.Op{initop.SetGroups([]uint32{5, 7}), initop.SetGID(1001), initop.SetUID(1000)}, status,
			[]string{`Uid:(\t1000){4}\n`, `Gid:(\t1001){4}\n`, `Groups:\t5 7 \n`, `CapEff:\t0+\n`, `CapPrm:\t0+\n`},
		},
		{"no groups", []initop.Op{initop.SetGroups(nil)}, status, []string{`Groups:\t *\n`}},
		{"umask", []initop.Op{initop.Umask(0o027)}, status, []string{`Umask:\t0027\n`}},
		{"rlimit", []initop.Op{initop.RLimit(unix.RLIMIT_NOFILE, 64, 128)}, []string{"cat", "/proc/self/limits"}, []string{`Max open files +64 +128 `}},
		{
			"tiny address space and no descriptors",
			[]initop.Op{initop.RLimit(unix.RLIMIT_AS, 4<<20, 4<<20), initop.RLimit(unix.RLIMIT_NOFILE, 4, 4)},
			[]string{"cat", "/proc/self/limits"}, []string{`Max address space +4194304 +4194304 `},
		},
		{"bounding capabilities", []initop.Op{initop.DropBounding(netRaw | setPCap)}, status, []string{`CapBnd:\t0+2100\n`, `CapEff:\t0+2100\n`}},
		{"all bounding capabilities kept", []initop.Op{initop.DropBounding(^uint64(0))}, status, []string{`CapBnd:\t` + ownStatus(t, "CapBnd") + `\n`}},
		{
			"capabilities of another user",
			append(asUser[:4:4], initop.SetCaps(netRaw, netRaw, netRaw), initop.SetAmbient(netRaw)), status,
			[]string{`CapInh:\t0+2000\n`, `CapPrm:\t0+2000\n`, `CapEff:\t0+2000\n`, `CapAmb:\t0+2000\n`},
		},
		{"capabilities of root", []initop.Op{initop.DropBounding(netRaw), initop.SetCaps(0, netRaw, 0)}, status, []string{`CapInh:\t0+\n`, `CapPrm:\t0+2000\n`}},
		{"no new privileges", []initop.Op{initop.NoNewPrivs()}, status, []string{`NoNewPrivs:\t1\n`}},
		{
			"seccomp without new privileges",
			append(asUser[:4:4], initop.SetCaps(0, 0, 0), initop.NoNewPrivs(), initop.Seccomp(refuse(unix.SYS_GETCWD), 0)),
			[]string{"sh", "-c", "cat /proc/self/status; exec /bin/busybox pwd"},
			[]string{`Seccomp:\t2\n`, `NoNewPrivs:\t1\n`, `getcwd: Operation not permitted`},
		},
		{
			"seccomp of another user by CAP_SYS_ADMIN raised again",
			append(asUser[:4:4], initop.SetCaps(sysAdmin, sysAdmin, 0), initop.Seccomp(refuse(unix.SYS_GETCWD), unix.SECCOMP_FILTER_FLAG_LOG), initop.SetCaps(0, 0, 0)),
			[]string{"sh", "-c", "cat /proc/self/status; exec /bin/busybox pwd"},
			[]string{`Seccomp:\t2\n`, `NoNewPrivs:\t0\n`, `CapPrm:\t0+\n`, `getcwd: Operation not permitted`},
		},
		{"chdir", []initop.Op{initop.Chdir(dir)}, []string{"pwd"}, []string{"^" + dir + "\n$"}},
		{"personality", []initop.Op{initop.Personality(0x0040000)}, []string{"cat", "/proc/self/personality"}, []string{"^00040000\n$"}},
		{"memory policy", []initop.Op{initop.Mempolicy(unix.MPOL_BIND, []int{0})}, []string{"sh", "-c", "grep stack /proc/self/numa_maps"}, []string{`bind:0 `}},
		{"memory policy of no nodes", []initop.Op{initop.Mempolicy(unix.MPOL_BIND, []int{0}), initop.Mempolicy(unix.MPOL_DEFAULT, nil)}, []string{"grep", "stack", "/proc/self/numa_maps"}, []string{` default `}},
		{"affinity", []initop.Op{initop.Affinity([]int{0})}, status, []string{`Cpus_allowed_list:\t0\n`}},
		{"affinity to CPUs that are not there too", []initop.Op{initop.Affinity([]int{0, 9000})}, status, []string{`Cpus_allowed_list:\t0\n`}},
		{"session", []initop.Op{initop.SetSID()}, []string{"cat", "/proc/self/stat"}, []string{`^(\d+) \(busybox\) R \d+ `}},
		{"signals", []initop.Op{initop.ResetSignals()}, status, []string{`SigBlk:\t0+\n`, `SigIgn:\t0+\n`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, _ := waiting(t)
			out := output(t, conn, tt.ops, nil, tt.args...)
			for _, want := range tt.want {
				assert.Regexp(t, want, out)
			}
		})
	}
}

func ownStatus(t *testing.T, key string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n"+key+":\t")
	require.True(t, found)
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

func TestSetSIDStartsASession(t *testing.T) {
	conn, c := waiting(t)
	// The second one finds a leader, as in a container of LXC.
	out := output(t, conn, []initop.Op{initop.SetSID(), initop.SetSID()}, nil, "cat", "/proc/self/stat")
	f := strings.Fields(out)
	assert.EqualValues(t, conn.PID(), c.Pid())
	assert.Equal(t, []string{f[0], f[0]}, f[4:6], "process group and session")
}

func TestSetSIDOfAGroupLeaderFails(t *testing.T) {
	conn, _ := connect(t, &exec.Cmd{SysProcAttr: &unix.SysProcAttr{Setpgid: true}})
	err := conn.Run(t.Context(), []initop.Op{initop.SetSID()})
	assert.ErrorIs(t, err, unix.EPERM)
}

func TestSetCTTYGivesATerminal(t *testing.T) {
	master, slave := pty(t)
	conn, _ := waiting(t)
	prepare := []initop.Op{
		initop.ResetSignals(), initop.Dup2(0, 0), initop.Dup2(0, 1), initop.Dup2(0, 2),
		initop.SetSID(), initop.SetCTTY(0),
	}
	require.NoError(t, conn.Run(t.Context(), prepare, slave))
	require.NoError(t, slave.Close())
	require.NoError(t, conn.Exec(t.Context(), program("sh", "-c", "echo it is $(tty) >/dev/tty")))
	buf := make([]byte, 100)
	n, err := master.Read(buf)
	require.NoError(t, err)
	assert.Regexp(t, `^it is /dev/pts/\d+\r\n$`, string(buf[:n]))
}

func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	require.Zero(t, errno)
	slave = os.NewFile(fd, "slave")
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestResetSignalsUndoesWhatTheParentsLeft(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, tt := range []struct {
		name         string
		ops          []initop.Op
		blocked, ign string
	}{
		{"without", nil, `[1-9a-f]`, `[1-9a-f]`},
		{"with", []initop.Op{initop.ResetSignals()}, `^0+$`, `^0+$`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, _ := waiting(t, self, "be-spoiled")
			out := output(t, conn, tt.ops, nil, "awk", "/Sig(Blk|Ign)/ { print $2 }", "/proc/self/status")
			f := strings.Fields(out)
			assert.Regexp(t, tt.blocked, f[0])
			assert.Regexp(t, tt.ign, f[1])
		})
	}
}

func TestStdioThatWasClosedDoesNotCollide(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	conn, _ := waiting(t, self, "be-without-stdio")
	var files []*os.File
	var ops []initop.Op
	reads := map[int]*os.File{}
	for target := 9; target >= 0; target-- { // the reverse of how they arrive
		r, w := pipe(t)
		reads[target] = r
		ops = append(ops, initop.Dup2(initop.FD(len(files)), target))
		files = append(files, w)
	}
	require.NoError(t, conn.Run(t.Context(), ops, files...))
	require.NoError(t, conn.Exec(t.Context(), program("sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do eval \"echo $i >&$i\"; done")))
	for _, w := range files {
		w.Close()
	}
	for target, r := range reads {
		assert.Equal(t, string(rune('0'+target))+"\n", readAll(t, r))
	}
}

func TestNothingIsInheritedButStdio(t *testing.T) {
	leaked, _ := pipe(t)
	conn, _ := connect(t, &exec.Cmd{ExtraFiles: []*os.File{leaked, leaked, leaked}})
	assert.Equal(t, 4, openFiles(t, conn.PID()), "stdio and the socket")
	ops := []initop.Op{initop.Dup2(0, 7), initop.WriteFD(1, []byte("x"))}
	out := output(t, conn, ops, []*os.File{leaked, tempFile(t)}, "ls", "/proc/self/fd")
	assert.Equal(t, []string{"0", "1", "2", "3"}, strings.Fields(out), "3 is the directory that ls reads")
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(filepath.Join("/proc", itoa(pid), "fd"))
	require.NoError(t, err)
	return len(fds)
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestDescriptorsOfAMessageAreClosedAfterIt(t *testing.T) {
	conn, _ := waiting(t)
	f := tempFile(t)
	files, ops := []*os.File{}, []initop.Op{}
	for i := range initop.MaxFDs {
		files, ops = append(files, f), append(ops, initop.WriteFD(initop.FD(i), []byte("x")))
	}
	for range 3 {
		require.NoError(t, conn.Run(t.Context(), ops, files...))
		assert.Equal(t, 4, openFiles(t, conn.PID()))
	}
	text, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	assert.Len(t, text, 3*initop.MaxFDs)
}

func TestTooManyDescriptorsForTheLimitAreRefused(t *testing.T) {
	conn, c := waiting(t)
	require.NoError(t, conn.Run(t.Context(), []initop.Op{initop.RLimit(unix.RLIMIT_NOFILE, 12, 12)}))
	f := tempFile(t)
	files := make([]*os.File, 20)
	for i := range files {
		files[i] = f
	}
	err := conn.Run(t.Context(), []initop.Op{initop.WriteFD(19, []byte("x"))}, files...)
	assert.ErrorIs(t, err, unix.EMFILE)
	<-c.Done()
	assert.Equal(t, initop.ExitMalformed, c.Exit().Status)
}

func TestJoinCgroupMovesTheProcess(t *testing.T) {
	dir, line := newCgroup(t)
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer procs.Close()
	conn, c := waiting(t)
	out := output(t, conn, []initop.Op{initop.JoinCgroup(0)}, []*os.File{procs}, "cat", "/proc/self/cgroup")
	assert.Contains(t, out, line)
	<-c.Done()
}

// newCgroup makes a group in some hierarchy, and returns its directory and
// how /proc/PID/cgroup ends.
func newCgroup(t *testing.T) (dir, line string) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		root += "/pids"
	}
	name := "nexcage-test-" + itoa(os.Getpid())
	dir = filepath.Join(root, name)
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { // the process before Fork may just be ending in it
		removed := func() bool { return os.Remove(dir) == nil }
		require.Eventually(t, removed, 10*time.Second, time.Millisecond)
	})
	return dir, ":/" + name + "\n"
}

func TestUnshareMakesANewNamespace(t *testing.T) {
	conn, _ := waiting(t)
	link := fmt.Sprintf("/proc/%d/ns/cgroup", conn.PID())
	before, err := os.Readlink(link)
	require.NoError(t, err)
	require.NoError(t, conn.Run(t.Context(), []initop.Op{initop.Unshare(unix.CLONE_NEWCGROUP)}))
	after, err := os.Readlink(link)
	require.NoError(t, err)
	assert.NotEqual(t, before, after)
}

func TestOpenGivesAContextOfTheHelpersUserNamespace(t *testing.T) {
	conn, _ := waiting(t)
	require.NoError(t, conn.Run(t.Context(), []initop.Op{initop.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)}))
	f, err := conn.Open(t.Context(), "tmpfs")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.FsconfigCreate(int(f.Fd())))
	mount, err := unix.Fsmount(int(f.Fd()), unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(mount)
	// The file system knows no id of the host, as nothing is mapped.
	require.Error(t, unix.Mkdirat(mount, "d", 0o755))
	_, err = conn.Open(t.Context(), "nosuchfs")
	require.ErrorIs(t, err, unix.ENODEV)
}

func TestSessionKeyringIsNotTheShims(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); err == unix.ENOSYS {
		t.Skip("the kernel has no keyrings")
	}
	id := func(ops ...initop.Op) string {
		conn, _ := waiting(t)
		r, w := pipe(t)
		ops = append(ops, initop.Dup2(0, 1), initop.Lookup(self, ""))
		ops = append(ops, initop.Exec([]string{self, "be-keyring"}, nil))
		require.NoError(t, conn.Exec(t.Context(), ops, w))
		w.Close()
		return readAll(t, r)
	}
	assert.Equal(t, id(), id())
	assert.NotEqual(t, id(), id(initop.SessionKeyring()))
}

func TestArgumentsAndEnvironmentArriveAsTheyAre(t *testing.T) {
	conn, _ := waiting(t)
	r, w := pipe(t)
	argv := []string{"busybox", "sh", "-c", `printf '<%s>' "$@"; env | wc -c; echo "$ODD"`, "sh", "", "a b", "ü\n", "'\"\\"}
	env := []string{"ODD==x y\tz", "", "noequals"}
	for i := range 16 { // more than the helper has memory for without mapping
		env = append(env, "E"+itoa(i)+"="+strings.Repeat("e", 100_000))
	}
	require.NoError(t, conn.Exec(t.Context(), []initop.Op{
		initop.Dup2(0, 1), initop.Lookup(busybox, ""), initop.Exec(argv, env),
	}, w))
	w.Close()
	out := readAll(t, r)
	assert.Contains(t, out, "<><a b><ü\n><'\"\\>")
	assert.Regexp(t, `16\d{5}`, out)
	assert.Contains(t, out, "=x y\tz\n")
}

func TestAWaitingHelperNeedsHardlyAnyMemory(t *testing.T) {
	conn, _ := waiting(t)
	require.NoError(t, conn.Run(t.Context(), []initop.Op{initop.Chdir("/"), initop.Lookup(busybox, "")}))
	text, err := os.ReadFile(filepath.Join("/proc", itoa(conn.PID()), "smaps_rollup"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "Rss:")
	assert.LessOrEqual(t, atoi(t, strings.Fields(rest)[0]), 40, "kB")
	runtime.KeepAlive(conn)
}

func TestWriteAtOpensAFileOfTheProcessItself(t *testing.T) {
	conn, _ := waiting(t)
	proc, err := os.Open("/proc")
	require.NoError(t, err)
	defer proc.Close()
	out := output(t, conn, []initop.Op{initop.WriteAt(0, "self/comm", "it is me")}, []*os.File{proc}, "true")
	assert.Empty(t, out)

	conn, _ = waiting(t)
	require.NoError(t, conn.Run(t.Context(), []initop.Op{initop.WriteAt(0, "self/comm", "it is me")}, proc))
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", conn.PID()))
	require.NoError(t, err)
	assert.Equal(t, "it is me\n", string(comm))
	assert.Equal(t, 4, openFiles(t, conn.PID()), "nothing stays open")

	err = conn.Run(t.Context(), []initop.Op{initop.WriteAt(0, "self/none", "x")}, proc)
	assert.ErrorIs(t, err, unix.ENOENT)
	assert.EqualError(t, err, `write "x" to self/none failed: no such file or directory`)
}

// Without the capabilities root may not enter the directory of another user,
// as on a file system of which it is not the master.
func TestTheUserMayEnterADirectoryThatRootMayNot(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for d := dir; d != "/"; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(d, st.Mode().Perm()|0o011))
	}
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.Mkdir(secret, 0o700))
	require.NoError(t, os.Chown(secret, 1000, 1000))
	weak := initop.SetCaps(1<<unix.CAP_SETUID|1<<unix.CAP_SETGID, 1<<unix.CAP_SETUID|1<<unix.CAP_SETGID, 0)
	user := []initop.Op{initop.SetGID(1000), initop.SetUID(1000)}

	conn, _ := waiting(t)
	ops := append([]initop.Op{weak, initop.TryChdir(secret)}, append(user, initop.RetryChdir(secret))...)
	assert.Equal(t, secret+"\n", output(t, conn, ops, nil, "pwd"))

	t.Run("and root one that the user may not", func(t *testing.T) {
		require.NoError(t, os.Chown(secret, 0, 0))
		conn, _ := waiting(t)
		ops := append([]initop.Op{initop.TryChdir(secret)}, append(user, initop.RetryChdir(secret))...)
		out := output(t, conn, ops, nil, "sh", "-c", "readlink /proc/self/cwd")
		assert.Equal(t, secret+"\n", out)
	})
	t.Run("but neither of them", func(t *testing.T) {
		require.NoError(t, os.Chown(secret, 1001, 1001))
		conn, _ := waiting(t)
		ops := append([]initop.Op{weak, initop.TryChdir(secret)}, append(user, initop.RetryChdir(secret))...)
		err := conn.Run(t.Context(), ops)
		assert.ErrorIs(t, err, unix.EACCES)
		assert.ErrorContains(t, err, `chdir to cwd ("`+secret+`") set in config.json failed: permission denied`)
	})
	t.Run("and one that is not there is no matter of users", func(t *testing.T) {
		conn, _ := waiting(t)
		err := conn.Run(t.Context(), []initop.Op{initop.TryChdir("/nowhere")})
		assert.ErrorIs(t, err, unix.ENOENT)
	})
}
