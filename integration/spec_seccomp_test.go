package integration

import (
	"runtime"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

// TestSpecSeccomp is about linux.seccomp: what a system call with these
// arguments gives. The calls are harmless ones.
func TestSpecSeccomp(t *testing.T) {
	runRows(t, slices.Concat(seccompRows, comparisons(), actions()))
}

// filter is a profile that is about one call.
func filter(rules ...specs.LinuxSyscall) func(*shown, *specs.Spec) {
	return func(_ *shown, s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: machineArchs(), Syscalls: rules}
	}
}

func machineArchs() []specs.Arch {
	if runtime.GOARCH == "arm64" {
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
}

func deny(name string, errno uint, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &errno, Args: args}
}

var seccompRows = []row{
	{
		name: "seccomp", fields: []string{"linux.seccomp.defaultAction", "linux.seccomp.syscalls[].names"},
		spec: filter(deny("getsid", 99)),
		look: func(x *shown) { assert.Equal(x.t, "2", x.status("Seccomp")) },
	},
	{
		name: "no-seccomp", fields: []string{"linux.seccomp"},
		look: func(x *shown) { assert.Equal(x.t, "0", x.status("Seccomp")) },
	},
	{
		name: "seccomp-errno", fields: []string{"linux.seccomp.syscalls[].errnoRet", "linux.seccomp.syscalls[].action"},
		spec: filter(deny("getsid", 99), specs.LinuxSyscall{Names: []string{"getpid", "personality"}, Action: specs.ActErrno}),
		args: []string{"observe", "call", "getsid", "0", ",", "call", "getpid", ",", "call", "personality", "0xffffffff", ",", "call", "umask", "63"},
		want: "errno 99\nerrno 1\nerrno 1\nok 18\n",
	},
	{
		name: "seccomp-default-errno", fields: []string{"linux.seccomp.defaultErrnoRet", "linux.seccomp.defaultAction"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(77)), Architectures: machineArchs(),
				Syscalls: []specs.LinuxSyscall{{Action: specs.ActAllow, Names: []string{
					"execve", "exit_group", "write", "writev", "read", "close", "umask", "prctl", "capset", "fcntl", "futex", "sendmsg", "recvmsg",
					"openat", "close_range", "fstat", "newfstatat", "mmap", "munmap", "lseek", "faccessat2", "seccomp",
				}}},
			}
		},
		args: []string{"observe", "call", "getsid", "0", ",", "call", "umask", "63"}, want: "errno 77\nok 18\n",
	},
	{
		name: "seccomp-architectures", fields: []string{"linux.seccomp.architectures"}, needs: []need{ia32},
		spec: filter(deny("getpid", 99)), // 20 is getpid for 32-bit x86
		args: []string{"observe", "call", "getpid", ",", "call32", "20", ",", "call32", "60", "18"}, want: "errno 99\nerrno 99\nok 18\n",
	},
	{
		name: "seccomp-architecture-not-listed", fields: []string{"linux.seccomp.architectures"}, needs: []need{ia32}, status: 159,
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: machineArchs()[:1], Syscalls: []specs.LinuxSyscall{deny("getsid", 99)}}
		},
		args: []string{"observe", "call", "umask", "63", ",", "call32", "20"}, want: "ok 18\n",
	},
	{
		name: "seccomp-two-arguments", fields: []string{"linux.seccomp.syscalls[].args[].index"},
		spec: filter(deny("umask", 99,
			specs.LinuxSeccompArg{Index: 0, Op: specs.OpGreaterEqual, Value: 16}, specs.LinuxSeccompArg{Index: 1, Op: specs.OpEqualTo, Value: 5})),
		args: []string{"observe", "call", "umask", "18", "5", ",", "call", "umask", "18", "4", ",", "call", "umask", "8", "5"},
		want: "errno 99\nok 18\nok 18\n",
	},
	{
		name: "seccomp-flags", fields: []string{"linux.seccomp.flags"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{deny("getsid", 99)},
				Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"},
			}
		},
		args: []string{"observe", "call", "getsid", "0"}, want: "errno 99\n",
	},
	{
		name: "seccomp-flag-unknown", fields: []string{"linux.seccomp.flags"}, refused: "linux.seccomp.flags[0]", flaw: upTo("1.21", "leaves out what it does not know"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_X"}}
		},
	},
	{
		name: "seccomp-action-unknown", fields: []string{"linux.seccomp.defaultAction"}, refused: "linux.seccomp.defaultAction",
		spec: func(_ *shown, s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_X"} },
	},
}

// comparisons has a row for each operator: which arguments of umask it holds for.
func comparisons() (rows []row) {
	const less, equal, more, wide = "0x12", "0x13", "0x14", "0x100000013"
	for _, c := range []struct {
		op    specs.LinuxSeccompOperator
		value uint64
		two   uint64
		want  string // for less, equal, more, wide; each umask gives back what the last set
	}{
		{specs.OpEqualTo, 0x13, 0, "ok 18\nerrno 99\nok 18\nok 20\n"},
		{specs.OpNotEqual, 0x13, 0, "errno 99\nok 18\nerrno 99\nerrno 99\n"},
		{specs.OpLessThan, 0x13, 0, "errno 99\nok 18\nok 19\nok 20\n"},
		{specs.OpLessEqual, 0x13, 0, "errno 99\nerrno 99\nok 18\nok 20\n"},
		{specs.OpGreaterThan, 0x13, 0, "ok 18\nok 18\nerrno 99\nerrno 99\n"},
		{specs.OpGreaterEqual, 0x13, 0, "ok 18\nerrno 99\nerrno 99\nerrno 99\n"},
		{specs.OpMaskedEqual, 0xff, 0x13, "ok 18\nerrno 99\nok 18\nerrno 99\n"}, // value is the mask
	} {
		rows = append(rows, row{
			name: "seccomp-" + string(c.op), fields: []string{
				"linux.seccomp.syscalls[].args[].op", "linux.seccomp.syscalls[].args[].value", "linux.seccomp.syscalls[].args[].valueTwo",
			},
			spec: filter(deny("umask", 99, specs.LinuxSeccompArg{Index: 0, Op: c.op, Value: c.value, ValueTwo: c.two})),
			args: []string{"observe", "call", "umask", less, ",", "call", "umask", equal, ",", "call", "umask", more, ",", "call", "umask", wide}, want: c.want,
		})
	}
	return rows
}

// actions has a row for each action that needs nobody outside.
func actions() (rows []row) {
	const sigsys = 128 + 31
	for _, a := range []struct {
		action specs.LinuxSeccompAction
		want   string
		status uint32
	}{
		{specs.ActAllow, "ok 1\n", 0},
		{specs.ActErrno, "errno 1\n", 0},
		{specs.ActLog, "ok 1\n", 0},
		{specs.ActTrace, "errno 38\n", 0}, // nobody traces
		{specs.ActTrap, "", sigsys},
		{specs.ActKill, "", sigsys},
		{specs.ActKillThread, "", sigsys},
		{specs.ActKillProcess, "", sigsys},
	} {
		rows = append(rows, row{
			name: "seccomp-" + string(a.action), fields: []string{"linux.seccomp.syscalls[].action"}, status: a.status,
			spec: filter(specs.LinuxSyscall{Names: []string{"getsid"}, Action: a.action}, deny("personality", 99)),
			args: []string{"observe", "call", "getsid", "0"}, want: a.want,
		})
	}
	return rows
}
