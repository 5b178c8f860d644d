package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

func scheduler(s specs.Scheduler) func(*specs.Spec) {
	return process(func(p *specs.Process) { p.Scheduler = &s })
}

func TestScheduler(t *testing.T) {
	assert.Nil(t, SchedAttr(translate(t).Process))
	for name, c := range map[string]struct {
		in   specs.Scheduler
		want unix.SchedAttr
	}{
		"nice":  {specs.Scheduler{Policy: "SCHED_OTHER", Nice: -20}, unix.SchedAttr{Nice: -20}},
		"batch": {specs.Scheduler{Policy: "SCHED_BATCH", Nice: 19}, unix.SchedAttr{Policy: 3, Nice: 19}},
		"idle":  {specs.Scheduler{Policy: "SCHED_IDLE"}, unix.SchedAttr{Policy: 5}},
		"fifo": {
			specs.Scheduler{Policy: "SCHED_FIFO", Priority: 99, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RESET_ON_FORK"}},
			unix.SchedAttr{Policy: 1, Priority: 99, Flags: 1},
		},
		"round robin": {specs.Scheduler{Policy: "SCHED_RR", Priority: 1}, unix.SchedAttr{Policy: 2, Priority: 1}},
		"deadline": {
			specs.Scheduler{
				Policy: "SCHED_DEADLINE", Runtime: 1000000, Deadline: 2000000, Period: 3000000,
				Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"},
			},
			unix.SchedAttr{Policy: 6, Runtime: 1000000, Deadline: 2000000, Period: 3000000, Flags: 6},
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, &c.want, SchedAttr(translate(t, scheduler(c.in)).Process))
		})
	}
	const policies = "SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE, SCHED_ISO, SCHED_OTHER, SCHED_RR"
	testRefused(t, []refusedCase{
		{"no policy", scheduler(specs.Scheduler{}), `process.scheduler.policy: "" is not one of ` + policies, nil},
		{"policy", scheduler(specs.Scheduler{Policy: "SCHED_X"}), `process.scheduler.policy: "SCHED_X" is not one of ` + policies, nil},
		{
			"flag", scheduler(specs.Scheduler{Policy: "SCHED_OTHER", Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RECLAIM", "X"}}),
			`process.scheduler.flags[1]: "X" is not one of SCHED_FLAG_DL_OVERRUN, SCHED_FLAG_KEEP_PARAMS, SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_RECLAIM, ` +
				`SCHED_FLAG_RESET_ON_FORK, SCHED_FLAG_UTIL_CLAMP_MAX, SCHED_FLAG_UTIL_CLAMP_MIN`, nil,
		},
		{"nice", scheduler(specs.Scheduler{Policy: "SCHED_OTHER", Nice: 20}), "process.scheduler.nice: 20 is not between -20 and 19", nil},
		{"nice of real time", scheduler(specs.Scheduler{Policy: "SCHED_RR", Priority: 1, Nice: 1}), "process.scheduler.nice: 1 is not for SCHED_RR", nil},
		{"priority", scheduler(specs.Scheduler{Policy: "SCHED_FIFO", Priority: 100}), "process.scheduler.priority: 100 is not between 1 and 99", nil},
		{"no priority", scheduler(specs.Scheduler{Policy: "SCHED_FIFO"}), "process.scheduler.priority: 0 is not between 1 and 99", nil},
		{"priority of others", scheduler(specs.Scheduler{Policy: "SCHED_BATCH", Priority: 1}), "process.scheduler.priority: 1 is not for SCHED_BATCH", nil},
		{"runtime", scheduler(specs.Scheduler{Policy: "SCHED_OTHER", Runtime: 1}), "process.scheduler.runtime: 1 is not for SCHED_OTHER", nil},
		{"deadline of others", scheduler(specs.Scheduler{Policy: "SCHED_OTHER", Deadline: 1}), "process.scheduler.deadline: 1 is not for SCHED_OTHER", nil},
		{"period of others", scheduler(specs.Scheduler{Policy: "SCHED_OTHER", Period: 1}), "process.scheduler.period: 1 is not for SCHED_OTHER", nil},
		{"no runtime", scheduler(specs.Scheduler{Policy: "SCHED_DEADLINE", Deadline: 1}), "process.scheduler.runtime: is required for SCHED_DEADLINE", nil},
		{"deadline", scheduler(specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 2, Deadline: 1}), "process.scheduler.deadline: 1 is less than the runtime, 2", nil},
		{"period", scheduler(specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 1, Deadline: 3, Period: 2}), "process.scheduler.period: 2 is less than the deadline, 3", nil},
	})
}

func TestIOPriority(t *testing.T) {
	prio := func(class specs.IOPriorityClass, n int) func(*specs.Spec) {
		return process(func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: class, Priority: n} })
	}
	_, ok := IOPriority(translate(t).Process)
	assert.False(t, ok)
	for class, want := range map[specs.IOPriorityClass]int{"IOPRIO_CLASS_RT": 0x2003, "IOPRIO_CLASS_BE": 0x4003, "IOPRIO_CLASS_IDLE": 0x6003} {
		got, ok := IOPriority(translate(t, prio(class, 3)).Process)
		assert.True(t, ok)
		assert.Equal(t, want, got, class)
	}
	testRefused(t, []refusedCase{
		{"class", prio("X", 0), `process.ioPriority.class: "X" is not one of IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_RT`, nil},
		{"no class", prio("", 0), `process.ioPriority.class: "" is not one of IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_RT`, nil},
		{"priority", prio("IOPRIO_CLASS_BE", 8), "process.ioPriority.priority: 8 is not between 0 and 7", nil},
		{"negative", prio("IOPRIO_CLASS_BE", -1), "process.ioPriority.priority: -1 is not between 0 and 7", nil},
	})
}

func TestAffinityOfAnExec(t *testing.T) {
	affinity := func(initial, final string) func(*specs.Spec) {
		return process(func(p *specs.Process) {
			p.ExecCPUAffinity = &specs.CPUAffinity{Initial: initial, Final: final}
		})
	}
	initial, final := AffinityOps(translate(t).Process)
	assert.Empty(t, initial)
	assert.Empty(t, final)
	initial, final = AffinityOps(translate(t, affinity("0-2,1,9", "")).Process)
	assert.Equal(t, []string{"set affinity to CPUs [0 1 2 9]"}, texts(initial))
	assert.Empty(t, final)
	_, final = AffinityOps(translate(t, affinity("", "65535")).Process)
	_, err := initop.Encode(final)
	require.NoError(t, err)
	testRefused(t, []refusedCase{
		{"initial", affinity("a", ""), `process.execCPUAffinity.initial: "a" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"final", affinity("", "3-1"), `process.execCPUAffinity.final: "3-1" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"more CPUs than there can be", affinity("", "65536"), `process.execCPUAffinity.final: "65536" is not a list of numbers and ranges, as in 0-3,7`, nil},
	})
}

// A list may be as long as the configuration: what is made of it may not.
func TestALongListIsReadAtOnce(t *testing.T) {
	long := strings.Repeat("0-65535,", 10000) + "3"
	require.NoError(t, checkList("x", long))
	assert.Len(t, parseList(long), 65536)
}

func TestMemoryPolicy(t *testing.T) {
	policy := func(mode specs.MemoryPolicyModeType, nodes string, flags ...specs.MemoryPolicyFlagType) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Nodes: nodes, Flags: flags}
		}
	}
	assert.Nil(t, translate(t).MemoryPolicy)
	for name, c := range map[string]struct {
		in   func(*specs.Spec)
		want MemoryPolicy
	}{
		"default":             {policy("MPOL_DEFAULT", ""), MemoryPolicy{}},
		"local":               {policy("MPOL_LOCAL", ""), MemoryPolicy{Mode: 4}},
		"bind":                {policy("MPOL_BIND", "0-2,64"), MemoryPolicy{Mode: 2, Nodes: []int{0, 1, 2, 64}}},
		"interleave":          {policy("MPOL_INTERLEAVE", "2-3", "MPOL_F_STATIC_NODES"), MemoryPolicy{Mode: 0x8003, Nodes: []int{2, 3}}},
		"weighted interleave": {policy("MPOL_WEIGHTED_INTERLEAVE", "0"), MemoryPolicy{Mode: 6, Nodes: []int{0}}},
		"preferred":           {policy("MPOL_PREFERRED", "0", "MPOL_F_RELATIVE_NODES"), MemoryPolicy{Mode: 0x4001, Nodes: []int{0}}},
		"preferred is local":  {policy("MPOL_PREFERRED", ""), MemoryPolicy{Mode: 1}},
		"preferred many":      {policy("MPOL_PREFERRED_MANY", "1023", "MPOL_F_NUMA_BALANCING"), MemoryPolicy{Mode: 0x2005, Nodes: []int{1023}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := translate(t, c.in)
			assert.Equal(t, &c.want, p.MemoryPolicy)
			o := streams()
			o.MemoryPolicy = p.MemoryPolicy
			prepare, _, err := ProcessOps(p.Process, o)
			require.NoError(t, err)
			_, err = initop.Encode(prepare)
			require.NoError(t, err)
			assert.Equal(t, initop.CodeMempolicy, prepare[5].Code())
		})
	}
	testRefused(t, []refusedCase{
		{"mode", policy("MPOL_X", ""), `linux.memoryPolicy.mode: "MPOL_X" is not one of MPOL_BIND, MPOL_DEFAULT, MPOL_INTERLEAVE, MPOL_LOCAL, MPOL_PREFERRED, MPOL_PREFERRED_MANY, MPOL_WEIGHTED_INTERLEAVE`, nil},
		{"flag", policy("MPOL_BIND", "0", "X"), `linux.memoryPolicy.flags[0]: "X" is not one of MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES`, nil},
		{"both flags", policy("MPOL_BIND", "0", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"), "linux.memoryPolicy.flags: has both MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES", nil},
		{"range", policy("MPOL_BIND", "2-1"), `linux.memoryPolicy.nodes: "2-1" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"newline", policy("MPOL_BIND", "0\n"), `linux.memoryPolicy.nodes: "0\n" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"node", policy("MPOL_BIND", "1024"), `linux.memoryPolicy.nodes: "1024" has a node that is not between 0 and 1023`, nil},
		{"no nodes", policy("MPOL_INTERLEAVE", ""), "linux.memoryPolicy.nodes: is required for MPOL_INTERLEAVE", nil},
		{"nodes", policy("MPOL_LOCAL", "0"), `linux.memoryPolicy.nodes: "0" is not for MPOL_LOCAL, which has no nodes`, nil},
	})
}

func TestTimeOffsets(t *testing.T) {
	offsets := func(ns specs.LinuxNamespace, o map[string]specs.LinuxTimeOffset) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{newNS("mount"), ns}
			s.Linux.TimeOffsets = o
		}
	}
	both := map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -5, Nanosecs: 999999999}, "boottime": {Secs: 1 << 40}}
	assert.Equal(t, "boottime 1099511627776 0\nmonotonic -5 999999999\n", translate(t, offsets(newNS("time"), both)).TimeOffsets)
	assert.Empty(t, translate(t, offsets(newNS("time"), nil)).TimeOffsets)

	one := func(clock string, o specs.LinuxTimeOffset) func(*specs.Spec) {
		return offsets(newNS("time"), map[string]specs.LinuxTimeOffset{clock: o})
	}
	const needs = `linux.timeOffsets: needs a new "time" namespace: an offset is set before there is a process in it`
	testRefused(t, []refusedCase{
		{"of the host", offsets(newNS("pid"), both), needs, nil},
		{"of others", offsets(joinNS("time", "/t"), both), needs, nil},
		{"clock", one("realtime\nboottime", specs.LinuxTimeOffset{}), `linux.timeOffsets["realtime\nboottime"]: is not one of boottime, monotonic`, nil},
		{"a second", one("boottime", specs.LinuxTimeOffset{Nanosecs: 1e9}), `linux.timeOffsets["boottime"].nanosecs: 1000000000 is not less than a second`, nil},
	})
}

func TestLabels(t *testing.T) {
	p := translate(t, process(func(p *specs.Process) {
		p.ApparmorProfile, p.SelinuxLabel = "cri-containerd.apparmor.d", "system_u:system_r:container_t:s0:c1,c2"
	})).Process
	o := streams()
	o.Procfs, o.AppArmorAttr = 3, AppArmorAttr
	prepare, _, err := ProcessOps(p, o)
	require.NoError(t, err)
	text := texts(prepare)
	set := []string{
		`write "exec cri-containerd.apparmor.d" to self/attr/apparmor/exec`,
		`write "system_u:system_r:container_t:s0:c1,c2" to self/attr/exec`,
	}
	assert.Subset(t, text, set)
	assert.Less(t, indexOf(text, set[1]), indexOf(text, "keep capabilities"), "while it has all privileges")
	assert.Equal(t, 4, initop.Descriptors(prepare))

	label := func(l string) func(*specs.Spec) {
		return process(func(p *specs.Process) { p.ApparmorProfile = l })
	}
	testRefused(t, []refusedCase{
		{"newline", label("a\nb"), `process.apparmorProfile: "a\nb" has a control character`, nil},
		{"NUL", label("a\x00b"), `process.apparmorProfile: "a\x00b" has a control character`, nil},
		{"blanks", label(" a"), `process.apparmorProfile: " a" has blanks around it`, nil},
		{"SELinux", process(func(p *specs.Process) { p.SelinuxLabel = "a\n" }), `process.selinuxLabel: "a\n" has a control character`, nil},
		{"mounts", func(s *specs.Spec) { s.Linux.MountLabel = "a\x00" }, `linux.mountLabel: "a\x00" has a control character`, nil},
	})
}

func indexOf(list []string, s string) int {
	for i, v := range list {
		if v == s {
			return i
		}
	}
	return -1
}

func TestMountLabelIsAnOptionOfNewFileSystems(t *testing.T) {
	p := translate(t, mounts(
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"size=1m"}},
		specs.Mount{Destination: "/own", Type: "tmpfs", Options: []string{"context=x"}},
		specs.Mount{Destination: "/sys", Type: "sysfs"},
		specs.Mount{Destination: "/proc", Type: "proc"},
		specs.Mount{Destination: "/data", Type: "bind", Source: "/data"},
	), func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2" })
	assert.Equal(t, "system_u:object_r:container_file_t:s0:c1,c2", p.MountLabel)
	want := FSOption{Key: "context", Value: p.MountLabel}
	assert.Equal(t, []FSOption{{Key: "size", Value: "1m"}, want}, p.Mounts[0].Data)
	assert.Equal(t, []FSOption{{Key: "context", Value: "x"}}, p.Mounts[1].Data)
	for _, m := range p.Mounts[2:] {
		assert.Empty(t, m.Data, m.Destination)
	}
}

func TestSeccompListener(t *testing.T) {
	notify := func(path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "about\nit",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
			}
		}
	}
	f := translate(t, notify("/run/agent.sock")).Filter
	assert.Equal(t, "/run/agent.sock", f.ListenerPath)
	assert.Equal(t, "about\nit", f.ListenerMetadata)
	assert.NotZero(t, f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	long := "/" + strings.Repeat("a", 107)
	testRefused(t, []refusedCase{
		{"relative", notify("agent"), `linux.seccomp.listenerPath: "agent" is not an absolute path`, nil},
		{"long", notify(long), `linux.seccomp.listenerPath: "` + long + `" is longer than 107 bytes`, nil},
		{"NUL", notify("/\x00"), `linux.seccomp.listenerPath: "/\x00" has a NUL byte`, nil},
	})
	quiet := translate(t, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "relative"}
	})
	assert.Empty(t, quiet.Filter.ListenerPath, "nobody would hear of anything")
}

func TestAnExecHasTheAttributesOfTheContainer(t *testing.T) {
	container := &specs.Process{
		ApparmorProfile: "a", SelinuxLabel: "s", Scheduler: &specs.Scheduler{Policy: "SCHED_IDLE"},
		IOPriority: &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE"}, ExecCPUAffinity: &specs.CPUAffinity{Initial: "0"},
	}
	assert.Equal(t, container, ExecProcess(container, &specs.Process{}))
	own := &specs.Process{
		ApparmorProfile: "b", SelinuxLabel: "t", Scheduler: &specs.Scheduler{Policy: "SCHED_OTHER"},
		IOPriority: &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_RT"}, ExecCPUAffinity: &specs.CPUAffinity{Final: "0"},
	}
	assert.Equal(t, own, ExecProcess(container, own))
}
