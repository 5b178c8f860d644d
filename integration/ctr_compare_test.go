package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// ctrUser runs ctr as a user does. The same calls with the same ids go to the runc
// shim and to ours: whatever differs is ours to explain.
type ctrUser struct {
	t     *testing.T
	world *harness.World
	flags []string // that choose the runtime
}

// ctrUsers are the runc shim with crun, and ours with LXC. ctr is 1.7's, or in a
// guest of Debian 12 that of 1.6, which write specs that Debian 12's crun takes.
func ctrUsers(t *testing.T, w *place) (reference, ours *ctrUser) {
	t.Helper()
	old, err := harness.FindVersion("1.7")
	if err == nil && old.Absent() != "" {
		old, err = harness.FindVersion("1.6")
	}
	require.NoError(t, err)
	client := *w.World
	client.Version = old
	config := filepath.Join(t.TempDir(), "lxc.toml")
	require.NoError(t, os.WriteFile(config, []byte("[routing]\ndefault_backend = \"lxc\"\n"+w.config), 0o644))
	reference = &ctrUser{t: t, world: &client, flags: []string{"--runtime", harness.Reference().Type, "--runc-binary", "crun"}}
	ours = &ctrUser{t: t, world: &client, flags: []string{"--runtime", harness.LXC().Type, "--runtime-config-path", config}}
	return reference, ours
}

// outcome is what a user sees of a command.
type outcome struct {
	Stdout, Stderr string
	Code           int
}

func (u *ctrUser) ctr(args ...string) outcome {
	u.t.Helper()
	cmd := u.world.Ctr(within(u.t, time.Minute), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		require.ErrorAs(u.t, err, new(*exec.ExitError))
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// run is `ctr run` with the flags of the runtime.
func (u *ctrUser) run(args ...string) outcome {
	return u.ctr(append(append([]string{"run"}, u.flags...), args...)...)
}

// look prints what a process can see of itself, one fact in a line.
const look = `
id; umask; pwd; hostname; env | sort; ulimit -a
grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups|Shd|Sig(Blk|Ign))' /proc/self/status
grep -H . /proc/self/oom_score_adj; cat /proc/self/cgroup /proc/self/comm
for d in / /dev /proc/sys /sys /etc; do if touch $d/.probe 2>/dev/null; then echo "$d writable"; rm $d/.probe; else echo "$d read-only"; fi; done
ls -la /dev /dev/pts /dev/shm /dev/mqueue | grep -v '^total' | awk '{ print $1, $3, $4, $5, $6, $NF }' | sort
ls /proc/self/fd | wc -l
cat /proc/self/mountinfo | awk '{ i = 7; while ($i != "-") i++; print $5, $6, $(i+1), $(i+2), $(i+3) }' | sort
cat /proc/net/dev | awk 'NR > 2 { print $1 }' | sort
ls -la / | awk '{ print $1, $3, $4, $NF }'
head -c 1 /proc/kcore | wc -c; head -c 1 /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware 2>&1 | wc -l
for f in memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us pids/pids.max devices/devices.list; do echo $f; cat /sys/fs/cgroup/$f 2>&1; done
true
`

// blur hides what differs from run to run, and between crun and runc, whose ways
// ours are.
var blur = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(lowerdir|upperdir|workdir)=[^ ,]*`), "$1=…"},
	{regexp.MustCompile(`containerd-mount\d+`), "containerd-mount…"},
	{regexp.MustCompile(`time="[^"]*"`), "time=…"},
	// runc makes /dev/core only if there is a /proc/kcore.
	{regexp.MustCompile(`(?m)^lrwxrwxrwx root root 11 \S+ /proc/kcore\n`), ""},
	{regexp.MustCompile(`(?m)^(d\S+ root root) \d+ `), "$1 … "},
	// crun covers with other file systems, and drops nosuid, nodev and noexec where it makes read-only.
	{regexp.MustCompile(`(?m)^(/proc/(?:acpi|asound|bus|fs|irq|kcore|keys|sys|sysrq-trigger|timer_list|scsi|latency_stats|interrupts)|/sys/firmware|/sys/devices/\S+) .*$`), "$1 protected"},
	{regexp.MustCompile(`(?m)^(/shared ro),nosuid,nodev `), "$1 "},
	{regexp.MustCompile(`OCI runtime (create|exec) failed: .*`), "OCI runtime $1 failed: …"},
	{regexp.MustCompile(`a (paused|stopped) (container|process|state)`), "a $1 one"},
}

// inherited are the signals that the tests themselves were started with as
// ignored, for example by nohup(1): containerd hands them on, and crun does too.
// LXC containers start with none.
var inherited = sync.OnceValue(func() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	return regexp.MustCompile(`SigIgn:\t\S+`).FindString(string(status))
})

func blurred(o outcome) outcome {
	o.Stdout = strings.ReplaceAll(o.Stdout, inherited(), "SigIgn:\t0000000000000000")
	for _, b := range blur {
		o.Stdout, o.Stderr = b.what.ReplaceAllString(o.Stdout, b.with), b.what.ReplaceAllString(o.Stderr, b.with)
	}
	return o
}

// TestCtrRunLooksTheSame runs `ctr run` with the flags that users know.
func TestCtrRunLooksTheSame(t *testing.T) {
	looksTheSame(t, world(t, harness.Versions[0].Name), func(stdout string) string { return stdout })
}

// looksTheSame hides with known what of the output is known to differ on a host.
func looksTheSame(t *testing.T, w *place, known func(stdout string) string) {
	shared := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(shared, "file"), []byte("shared\n"), 0o644))
	for _, tc := range []struct {
		name  string
		flags []string
		args  []string // look by default
	}{
		{name: "default"},
		{name: "exit code", args: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}},
		{name: "killed by a signal", args: []string{"sh", "-c", "kill -TERM $$"}},
		{name: "missing", args: []string{"nosuch"}},
		{name: "missing path", args: []string{"/no/such"}},
		{name: "directory", args: []string{"/etc"}},
		{name: "not executable", args: []string{"/etc/passwd"}},
		{name: "privileged", flags: []string{"--privileged"}},
		{name: "host network", flags: []string{"--net-host"}},
		{name: "cgroup", flags: []string{"--cgroup", "/" + harness.Token() + "-by-ctr"}},
		{name: "no cgroup", flags: []string{"--cgroup", ""}, args: []string{"true"}},
		{name: "memory limit", flags: []string{"--memory-limit", "67108864"}},
		{name: "cpus", flags: []string{"--cpus", "0.5", "--cpu-shares", "512"}},
		{name: "cpu quota", flags: []string{"--cpu-quota", "20000", "--cpu-period", "50000"}},
		{name: "bind mount", flags: []string{"--mount", "type=bind,src=" + shared + ",dst=/shared,options=rbind:ro"}},
		{name: "bind mount, its content", flags: []string{"--mount", "type=bind,src=" + shared + ",dst=/shared,options=rbind:ro"}, args: []string{"sh", "-c", "cat /shared/file; touch /shared/x"}},
		{name: "tmpfs mount", flags: []string{"--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=nosuid:size=64k:mode=700"}},
		{name: "mount of what is missing", flags: []string{"--mount", "type=bind,src=/no/such,dst=/shared,options=rbind"}, args: []string{"true"}},
		{name: "environment", flags: []string{"--env", "A=b c", "--env", "PATH=/bin", "--env", "EMPTY="}},
		{name: "user", flags: []string{"--user", "1000:1001"}},
		{name: "cwd", flags: []string{"--cwd", "/etc"}},
		{name: "cwd that is missing", flags: []string{"--cwd", "/new/dir"}},
		{name: "read-only", flags: []string{"--read-only"}},
		{name: "hostname", flags: []string{"--hostname", "box"}},
		{name: "seccomp", flags: []string{"--seccomp"}},
		{name: "seccomp, a call that it denies", flags: []string{"--seccomp"}, args: []string{"unshare", "-m", "true"}},
		{name: "capability added", flags: []string{"--cap-add", "CAP_SYS_ADMIN"}},
		{name: "capability dropped", flags: []string{"--cap-drop", "CAP_CHOWN"}},
		{name: "new privileges", flags: []string{"--allow-new-privs"}},
		{name: "device", flags: []string{"--device", "/dev/kmsg"}},
		{name: "network namespace by path", flags: []string{"--with-ns", "network:/proc/1/ns/net"}},
		{name: "namespace that is missing", flags: []string{"--with-ns", "network:/no/such"}, args: []string{"true"}},
		{name: "propagation", flags: []string{"--rootfs-propagation", "rslave"}, args: []string{"true"}},
		{name: "label and annotation", flags: []string{"--label", "a=b", "--annotation", "c=d"}, args: []string{"true"}},
		{name: "no streams", flags: []string{"--null-io"}, args: []string{"echo", "x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reference, ours := ctrUsers(t, w)
			args := tc.args
			if args == nil {
				args = []string{"sh", "-c", look}
			}
			args = append(append(append([]string{"--rm"}, tc.flags...), harness.Image, containerID("same")), args...)
			want := blurred(reference.run(args...))
			logged(t, w)
			leaveNothing(t, w) // what the reference leaves is not ours to mend
			got := blurred(ours.run(args...))
			want.Stdout, got.Stdout = known(want.Stdout), known(got.Stdout)
			assert.Equal(t, want, got)
			if tc.args == nil {
				assert.Zero(t, want.Code)
				assert.Greater(t, strings.Count(want.Stdout, "\n"), 60, "the look around")
			}
		})
	}
}

// TestCtrTerminal has a user at a terminal.
func TestCtrTerminal(t *testing.T) {
	sameTerminal(t, world(t, harness.Versions[0].Name))
}

func sameTerminal(t *testing.T, w *place) {
	reference, ours := ctrUsers(t, w)
	leaveNothing(t, w)
	id := containerID("terminal")
	session := func(u *ctrUser) (string, int) {
		cmd := u.world.Ctr(within(t, time.Minute), append(append([]string{"run", "--rm", "-t"}, u.flags...), harness.Image, id, "sh")...)
		tty, slave, err := console.NewPty()
		require.NoError(t, err)
		defer tty.Close()
		require.NoError(t, tty.Resize(console.WinSize{Height: 33, Width: 99}))
		stdio, err := os.OpenFile(slave, os.O_RDWR, 0)
		require.NoError(t, err)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio, stdio, stdio
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		require.NoError(t, cmd.Start())
		require.NoError(t, stdio.Close())
		// ctr tells the size of the window after the start. The runc shim may drop
		// what is written just before the end.
		_, err = io.WriteString(tty, "until [ \"$(stty size 2>&1)\" = '33 99' ]; do :; done; echo BE''GIN; tty; stty size; stty -a; ls -l /dev/console; tty < /dev/tty; echo EN''D; read x; exit 5\n")
		require.NoError(t, err)
		in := bufio.NewReader(tty)
		var out strings.Builder
		for !strings.HasSuffix(out.String(), "END") {
			b, err := in.ReadByte()
			require.NoError(t, err, out.String())
			out.WriteByte(b)
		}
		_, err = io.WriteString(tty, "\n")
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, in) // ends with EIO
		_ = cmd.Wait()
		_, facts, _ := strings.Cut(out.String(), "BEGIN")
		return facts, cmd.ProcessState.ExitCode()
	}
	wantOut, wantCode := session(reference)
	gotOut, gotCode := session(ours)
	minutes := regexp.MustCompile(`\d\d:\d\d`)
	assert.Equal(t, minutes.ReplaceAllString(wantOut, "…"), minutes.ReplaceAllString(gotOut, "…"))
	assert.Equal(t, wantCode, gotCode)
	assert.Contains(t, gotOut, "33 99")
	assert.Equal(t, 5, gotCode)
}

// TestCtrTask drives a detached task with the other commands of ctr.
func TestCtrTask(t *testing.T) {
	sameTask(t, world(t, harness.Versions[0].Name))
}

func sameTask(t *testing.T, w *place) {
	reference, ours := ctrUsers(t, w)
	logged(t, w)
	leaveNothing(t, w)
	id := containerID("detached")
	numbers := regexp.MustCompile(`\b(\d+|PID) *`) // a column is as wide as what is in it
	transcript := func(u *ctrUser) (steps []string) {
		note := func(o outcome, hide bool) {
			if hide {
				o.Stdout = numbers.ReplaceAllString(o.Stdout, "#")
			}
			steps = append(steps, fmt.Sprintf("%+v", blurred(o)))
		}
		task := func(args ...string) outcome { return u.ctr(append([]string{"task"}, args...)...) }
		note(u.run("-d", "--null-io", harness.Image, id, "sleep", "1000"), false)
		note(task("ls"), true)
		note(task("ps", id), true)
		note(task("exec", "--exec-id", "e1", id, "sh", "-c", "echo in; echo err >&2; exit 9"), false)
		note(task("exec", "--exec-id", "e2", "--user", "1000:1000", "--cwd", "/etc", id, "sh", "-c", "id; pwd; env | sort; cat /proc/self/status | grep -E 'Cap|NoNew'"), false)
		note(task("exec", "--exec-id", "e3", id, "nosuch"), false)
		note(task("exec", "--exec-id", "e4", id, "sh", "-c", "exec kill -KILL $$"), false)
		note(task("pause", id), false)
		note(task("ls"), true)
		note(task("pause", id), false)
		note(task("resume", id), false)
		note(task("resume", id), false)
		steps = append(steps, strings.Join(metricNames(task("metrics", id).Stdout), "\n"))
		note(task("delete", id), false)
		note(task("kill", "--signal", "SIGUSR9", id), false)
		note(task("kill", "--signal", "SIGKILL", id), false)
		require.Eventually(t, func() bool { return strings.Contains(task("ls").Stdout, "STOPPED") }, 10*time.Second, 10*time.Millisecond)
		note(task("ls"), true) // crun crashes on ps now
		note(task("kill", id), false)
		note(task("exec", "--exec-id", "e5", id, "true"), false)
		note(task("delete", id), false)
		note(task("delete", id), false)
		note(u.ctr("container", "delete", id), false)
		return steps
	}
	want, got := transcript(reference), transcript(ours)
	for i := range want {
		assert.Equal(t, want[i], got[i], "step %d", i)
	}
}

// metricNames are the names in the table that ctr prints, in its order.
func metricNames(table string) (names []string) {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return slices.Compact(names)
}
