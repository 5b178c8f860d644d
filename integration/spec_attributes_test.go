package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecAttributes is about how processes are scheduled, labelled and
// filtered, of the container and of an exec.
func TestSpecAttributes(t *testing.T) { runRows(t, processAttributeRows) }

var processAttributeRows = []row{
	{
		name: "scheduler-batch", fields: []string{"process.scheduler.policy", "process.scheduler.nice"}, crun: "1.9",
		spec: schedule(specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}),
		look: func(x *shown) { assert.Equal(x.t, "nice 7 rt 0 policy 3", x.scheduling()) },
	},
	{
		name: "scheduler-fifo", fields: []string{"process.scheduler.policy", "process.scheduler.priority", "process.scheduler.flags"}, crun: "1.9", execFlaw: upTo("1.21", "sets it before a fork, at which it is to be reset"),
		needs: []need{realtime},
		spec:  schedule(specs.Scheduler{Policy: specs.SchedFIFO, Priority: 9, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}),
		look: func(x *shown) {
			assert.Equal(x.t, "nice 0 rt 9 policy 1", x.scheduling())
			attr, err := unix.SchedGetAttr(int(x.Pid), 0)
			require.NoError(x.t, err)
			assert.EqualValues(x.t, unix.SCHED_FLAG_RESET_ON_FORK, attr.Flags)
		},
	},
	{
		name: "scheduler-deadline", crun: "1.9", needs: []need{realtime}, flaw: upTo("1.21", "resets its affinity then, which the kernel refuses"),
		fields: []string{"process.scheduler.runtime", "process.scheduler.deadline", "process.scheduler.period"},
		spec:   schedule(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 2e7, Period: 3e7}),
		look: func(x *shown) {
			attr, err := unix.SchedGetAttr(int(x.Pid), 0)
			require.NoError(x.t, err)
			assert.Equal(x.t, []uint64{unix.SCHED_DEADLINE, 1e6, 2e7, 3e7}, []uint64{uint64(attr.Policy), attr.Runtime, attr.Deadline, attr.Period})
		},
	},
	{
		name: "scheduler-unknown", fields: []string{"process.scheduler.policy"}, refused: "process.scheduler.policy", crun: "1.9",
		spec: schedule(specs.Scheduler{Policy: "SCHED_X"}),
	},
	{
		name: "scheduler-of-no-kernel", fields: []string{"process.scheduler.policy"}, refused: "process.scheduler: SCHED_ISO", crun: "1.9",
		spec: schedule(specs.Scheduler{Policy: specs.SchedISO}),
	},
	{
		name: "io-priority", fields: []string{"process.ioPriority.class", "process.ioPriority.priority"}, crun: "1.9",
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		},
		look: func(x *shown) {
			const whoProcess, bestEffort = 1, 2 << 13
			prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, uintptr(x.Pid), 0)
			require.Zero(x.t, errno)
			assert.EqualValues(x.t, bestEffort|6, prio)
		},
	},
	{
		name: "exec-affinity-final", looksAtExecs: true, fields: []string{"process.execCPUAffinity.final"}, crun: "1.20", needs: []need{twoCPUs},
		spec: affinity("0", "1"),
		look: func(x *shown) {
			assert.Equal(x.t, "1\n", x.allowedCPUs(), "the exec")
			assert.NotEqual(x.t, "1", x.status("Cpus_allowed_list"), "the container's process has its own")
		},
	},
	{
		// The kernel keeps what a process chose over a change of its group
		// since 6.2.
		name: "exec-affinity-initial", looksAtExecs: true, fields: []string{"process.execCPUAffinity.initial"}, crun: "1.20", needs: []need{twoCPUs, kernel(6, 2)},
		spec: affinity("0", ""), look: func(x *shown) { assert.Equal(x.t, "0\n", x.allowedCPUs()) },
	},
	{
		name: "memory-policy", fields: []string{"linux.memoryPolicy.mode", "linux.memoryPolicy.nodes", "linux.memoryPolicy.flags"}, crun: "1.25",
		spec: memoryPolicy(specs.MpolBind, "0", specs.MpolFStaticNodes), args: []string{"observe", "mempolicy"}, want: "mode 0x8002 nodes 0x1\n",
	},
	{
		name: "memory-policy-of-an-exec", fields: []string{"linux.memoryPolicy.mode"}, crun: "1.25",
		spec: memoryPolicy(specs.MpolInterleave, "0"),
		look: func(x *shown) { assert.Equal(x.t, "mode 0x3 nodes 0x1\n", x.inside("observe", "mempolicy")) },
	},
	{
		name: "memory-policy-of-a-node-that-is-not-there", fields: []string{"linux.memoryPolicy.nodes"}, refused: "linux.memoryPolicy: set memory policy 0x2 of nodes [1023] failed", crun: "1.25",
		spec: memoryPolicy(specs.MpolBind, "1023"),
	},
	{
		name: "memory-policy-of-the-second-node", fields: []string{"linux.memoryPolicy.nodes"}, needs: []need{twoNodes}, crun: "1.25",
		lacking: "linux.memoryPolicy: set memory policy 0x2 of nodes [1] failed",
		spec:    memoryPolicy(specs.MpolBind, "1"), args: []string{"observe", "mempolicy"}, want: "mode 0x2 nodes 0x2\n",
	},
	{
		name: "memory-policy-unknown", fields: []string{"linux.memoryPolicy.mode"}, refused: `linux.memoryPolicy.mode: "MPOL_X" is not one of `, crun: "1.25",
		spec: memoryPolicy("MPOL_X", "0"),
	},
	knownSince("1.9", newNamespace(specs.TimeNamespace, "time")),
	withFlaw(upTo("1.21", "fails with EEXIST"), knownSince("1.9", joinedNamespace(specs.TimeNamespace, "time", "--time"))),
	joinedNamespace(specs.CgroupNamespace, "cgroup", "--cgroup"),
	{
		name: "time-offsets", fields: []string{"linux.timeOffsets{}.secs", "linux.timeOffsets{}.nanosecs"}, crun: "1.9",
		spec: func(_ *shown, s *specs.Spec) {
			setNamespace(s, specs.TimeNamespace, "")
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400, Nanosecs: 7}, "monotonic": {Secs: -1, Nanosecs: 500}}
		},
		look: func(x *shown) {
			for name, offsets := range map[string]string{"the process": x.procFile("timens_offsets"), "an exec": x.inside("cat", "/proc/self/timens_offsets")} {
				assert.Equal(x.t, []string{"monotonic", "-1", "500", "boottime", "86400", "7"}, strings.Fields(offsets), name)
			}
			var here unix.Timespec
			require.NoError(x.t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &here))
			var monotonic, boottime int64
			_, err := fmt.Sscanf(x.inside("observe", "clocks"), "monotonic %d\nboottime %d\n", &monotonic, &boottime)
			require.NoError(x.t, err)
			assert.InDelta(x.t, here.Sec+86400, boottime/1e9, 30)
		},
	},
	{
		name: "time-offsets-beyond-the-clock", fields: []string{"linux.timeOffsets{}.secs"}, refused: "linux.timeOffsets", crun: "1.9", flaw: upTo("1.21", leavesGroups).on(cgroupV2),
		spec: func(_ *shown, s *specs.Spec) {
			setNamespace(s, specs.TimeNamespace, "")
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: -1 << 40}}
		},
	},
	{
		name: "seccomp-listener", fields: []string{"linux.seccomp.listenerPath", "linux.seccomp.listenerMetadata", "linux.seccomp.syscalls[].action"},
		spec: func(x *shown, s *specs.Spec) { notify(x, s, "getsid", "getpgid") },
		args: []string{"observe", "call", "getsid", "0", ",", "call", "umask", "63"}, want: "errno 99\nok 18\n",
	},
	{
		name: "seccomp-listener-of-an-exec", fields: []string{"linux.seccomp.listenerPath"},
		spec: func(x *shown, s *specs.Spec) { notify(x, s, "getsid") },
		look: func(x *shown) { assert.Equal(x.t, "errno 99\n", x.inside("observe", "call", "getsid", "0")) },
	},
	{
		name: "seccomp-listener-with-new-privileges", fields: []string{"linux.seccomp.listenerPath"},
		spec: func(x *shown, s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			s.Process.User = specs.User{UID: 1000, GID: 1000}
			notify(x, s, "getsid")
		},
		args: []string{"observe", "call", "getsid", "0"}, want: "errno 99\n",
	},
	{
		name: "seccomp-listener-that-nobody-is-at", fields: []string{"linux.seccomp.listenerPath"}, refused: "linux.seccomp.listenerPath",
		spec: func(x *shown, s *specs.Spec) { s.Linux.Seccomp = notifying(filepath.Join(x.dir, "none"), "getsid") },
	},
	{
		name: "seccomp-listener-that-is-none", fields: []string{"linux.seccomp.listenerPath"}, refused: "is not a socket",
		spec: func(_ *shown, s *specs.Spec) { s.Linux.Seccomp = notifying("/etc/passwd", "getsid") },
	},
	{
		name: "apparmor-profile-enforced", flaw: byDesign(isConfinedItself).on(crunProfile), looksAtExecs: true, fields: []string{"process.apparmorProfile"}, needs: []need{apparmor}, lacking: "process.apparmorProfile",
		spec: func(x *shown, s *specs.Spec) { s.Process.ApparmorProfile = x.profile() },
		look: func(x *shown) { x.isConfined() },
	},
	{
		name: "apparmor-profile-without-new-privileges", flaw: byDesign(isConfinedItself).on(crunProfile), looksAtExecs: true, fields: []string{"process.apparmorProfile"}, needs: []need{apparmor}, lacking: "process.apparmorProfile",
		spec: func(x *shown, s *specs.Spec) {
			s.Process.ApparmorProfile, s.Process.NoNewPrivileges = x.profile(), true
			s.Process.User = specs.User{UID: 1000, GID: 1000}
		},
		look: func(x *shown) { x.isConfined() },
	},
	{
		name: "apparmor-profile-that-is-not-loaded", fields: []string{"process.apparmorProfile"}, needs: []need{apparmor}, lacking: "process.apparmorProfile",
		refused: `process.apparmorProfile: write "exec nexcage-none" to self/attr/apparmor/exec failed: no such file or directory`,
		spec:    func(_ *shown, s *specs.Spec) { s.Process.ApparmorProfile = "nexcage-none" },
	},
	{
		name: "no-apparmor-profile", flaw: byDesign(isConfinedItself).on(crunProfile), fields: []string{"process.apparmorProfile"}, needs: []need{apparmor},
		args: []string{"cat", "/proc/self/attr/current"}, want: "unconfined\n",
	},
}

const isConfinedItself = "is confined itself, by the profile that the distribution has for it"

var (
	// realtime is what a process in a control group may not do where the group
	// has no time of its own for it (CONFIG_RT_GROUP_SCHED).
	realtime = need{"real-time scheduling in control groups", func() bool {
		return !exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us") && capability("CAP_SYS_NICE", unix.CAP_SYS_NICE).has()
	}}
)

// knownSince is a row for a crun that does not end without a word, as 1.8 does
// in a time namespace of a current kernel.
func knownSince(version string, r row) row {
	r.crun = version
	return r
}

func schedule(s specs.Scheduler) func(*shown, *specs.Spec) {
	return func(_ *shown, spec *specs.Spec) { spec.Process.Scheduler = &s }
}

// scheduling is of the process, by its fields in proc_pid_stat(5).
func (x *shown) scheduling() string {
	x.t.Helper()
	stat := x.procFile("stat")
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const first = 3
	return fmt.Sprintf("nice %s rt %s policy %s", f[19-first], f[40-first], f[41-first])
}

func affinity(initial, final string) func(*shown, *specs.Spec) {
	return func(_ *shown, s *specs.Spec) {
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: initial, Final: final}
	}
}

// allowedCPUs are those of an exec.
func (x *shown) allowedCPUs() string {
	x.t.Helper()
	return x.inside("awk", "/^Cpus_allowed_list/ { print $2 }", "/proc/self/status")
}

func memoryPolicy(mode specs.MemoryPolicyModeType, nodes string, flags ...specs.MemoryPolicyFlagType) func(*shown, *specs.Spec) {
	return func(_ *shown, s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Nodes: nodes, Flags: flags}
	}
}

// notify makes a profile that asks an agent about system calls, and the agent:
// it lets them fail.
func notify(x *shown, s *specs.Spec, calls ...string) {
	socket := filepath.Join(x.dir, "agent")
	l, err := net.Listen("unix", socket)
	require.NoError(x.t, err)
	a := &agent{x: x, t: x.t, done: make(chan struct{})}
	go a.serve(l)
	x.t.Cleanup(func() {
		assert.NoError(x.t, l.Close())
		<-a.done
		assert.Positive(x.t, a.listeners, "listeners that the agent got")
	})
	s.Linux.Seccomp = notifying(socket, calls...)
}

func notifying(socket string, calls ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: machineArchs(), ListenerPath: socket, ListenerMetadata: "about it",
		Syscalls: []specs.LinuxSyscall{{Names: calls, Action: specs.ActNotify}},
	}
}

// agent is what listens at linux.seccomp.listenerPath.
type agent struct {
	x         *shown
	t         *testing.T
	listeners int
	done      chan struct{}
}

func (a *agent) serve(l net.Listener) {
	defer close(a.done)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		a.listeners++
		fd := a.receive(conn.(*net.UnixConn))
		go a.answer(fd)
	}
}

// receive reads the state and the listener that comes with it.
func (a *agent) receive(conn *net.UnixConn) int {
	defer conn.Close()
	assert.NoError(a.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	assert.NoError(a.t, err)
	var state specs.ContainerProcessState
	assert.NoError(a.t, json.Unmarshal(buf[:n], &state), "%s", buf[:n])
	assert.Equal(a.t, []string{specs.SeccompFdName}, state.Fds)
	assert.Equal(a.t, "about it", state.Metadata)
	assert.Equal(a.t, a.x.ID, state.State.ID)
	if a.x.Runtime.Backend == "lxc" { // crun 1.8 says 0 for an exec
		assert.Positive(a.t, state.Pid)
	}
	assert.DirExists(a.t, state.State.Bundle)
	status := specs.StateCreating // of the first, the container's own
	if a.listeners > 1 {
		status = specs.StateRunning
	}
	assert.Equal(a.t, status, state.State.Status)
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if !assert.NoError(a.t, err) || !assert.Len(a.t, msgs, 1) {
		return -1
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	assert.NoError(a.t, err)
	return fds[0]
}

// answer lets every call fail, until nobody is left who has the filter.
func (a *agent) answer(fd int) {
	defer unix.Close(fd)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return
		}
		if poll[0].Revents&unix.POLLHUP != 0 {
			return
		}
		var asked struct { // struct seccomp_notif
			id   uint64
			rest [9]uint64
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // who asked was killed meanwhile
		}
		answer := struct { // struct seccomp_notif_resp
			id    uint64
			val   int64
			errno int32
			flags uint32
		}{id: asked.id, errno: -99}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// profile is an AppArmor profile that is loaded, or refused without AppArmor.
func (x *shown) profile() string {
	x.t.Helper()
	if !apparmor.has() {
		return profileName(x.dir)
	}
	return loadProfile(x.t, x.dir)
}

// loadProfile loads an AppArmor profile that allows everything but to write
// below /tmp, and returns its name.
func loadProfile(t *testing.T, dir string) string {
	t.Helper()
	name := profileName(dir)
	file := filepath.Join(dir, "profile")
	text := "profile " + name + " flags=(attach_disconnected,mediate_deleted) {\n" +
		"  capability,\n  network,\n  file,\n  signal,\n  mount,\n  deny /tmp/** w,\n}\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.Command("apparmor_parser", "--replace", "--skip-cache", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() {
		out, err := exec.Command("apparmor_parser", "--remove", file).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	})
	return name
}

// profileName is one that no other row has.
func profileName(dir string) string {
	return "nexcage" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, dir)
}

// isConfined looks at the labels of the process and of an exec, and at what
// they may not do.
func (x *shown) isConfined() {
	x.t.Helper()
	label := profileName(x.dir) + " (enforce)\n"
	assert.Equal(x.t, label, x.procFile("attr/current"))
	assert.Equal(x.t, label, x.inside("cat", "/proc/self/attr/current"))
	assert.Contains(x.t, x.inside("sh", "-c", "mkdir -p /tmp; echo > /tmp/file"), "ermission denied")
}

// An exec may have attributes of its own.
func TestExecsHaveAttributesOfTheirOwn(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		if rt.Backend != "lxc" {
			t.Skip("crun takes them from the container")
		}
		row{
			name: "exec-attributes", fields: []string{"process.scheduler"},
			spec: schedule(specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}),
			look: func(x *shown) {
				assert.Equal(x.t, "nice 3 rt 0 policy 3", x.scheduling())
				p, err := x.Process(x.ctx, "sh", "-c", "cut -d ' ' -f 19,41 /proc/$$/stat")
				require.NoError(x.t, err)
				p.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 11}
				assert.Equal(x.t, "11 0\n", x.run(p))

				p, err = x.Process(x.ctx, "awk", "/^Cpus_allowed_list/ { print $2 }", "/proc/self/status")
				require.NoError(x.t, err)
				p.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
				assert.Equal(x.t, "0\n", x.run(p))
			},
		}.test(t, w, rt)
	})
}

// A container that has a user namespace of its own has the same attributes.
func TestAttributesInUserNamespaces(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		for _, r := range processAttributeRows {
			t.Run(r.name, func(t *testing.T) { r.test(t, w, harness.UserNS("")) })
		}
	})
}
