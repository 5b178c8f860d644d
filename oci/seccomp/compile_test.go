package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// parse reads a profile in JSON, as config.json has it.
func parse(t testing.TB, profile string) *specs.LinuxSeccomp {
	t.Helper()
	s := &specs.LinuxSeccomp{}
	require.NoError(t, json.Unmarshal([]byte(profile), s))
	return s
}

// amd64 makes a call with the numbers of 64-bit x86.
func amd64(nr uint32, args ...uint64) call {
	c := call{audit: unix.AUDIT_ARCH_X86_64, nr: nr}
	copy(c.args[:], args)
	return c
}

func i386(nr uint32, args ...uint64) call {
	c := amd64(nr, args...)
	c.audit = unix.AUDIT_ARCH_I386
	return c
}

func TestCompileRefusesWhatItCannotExpress(t *testing.T) {
	for name, tc := range map[string]struct {
		profile string
		want    string
		kind    error
	}{
		"default action": {
			`{"defaultAction":"ALLOW"}`,
			`linux.seccomp.defaultAction: "ALLOW" is not one of SCMP_ACT_KILL, `, errdefs.ErrInvalidArgument,
		},
		"no default action": {
			`{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`,
			`linux.seccomp.defaultAction: "" is not one of `, errdefs.ErrInvalidArgument,
		},
		"default action notify": {
			`{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/a"}`,
			`linux.seccomp.defaultAction: "SCMP_ACT_NOTIFY" can not be for all system calls`, errdefs.ErrInvalidArgument,
		},
		"errno of an action without one": {
			`{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}`,
			`linux.seccomp.defaultErrnoRet: 1 is set, but SCMP_ACT_KILL returns no errno`, errdefs.ErrInvalidArgument,
		},
		"errno that the kernel would cut": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}]}`,
			`linux.seccomp.syscalls[0].errnoRet: 4096 is over 4095`, errdefs.ErrInvalidArgument,
		},
		"architecture": {
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","amd64"]}`,
			`linux.seccomp.architectures[1]: "amd64" is not one of SCMP_ARCH_X86, `, errdefs.ErrInvalidArgument,
		},
		"flag": {
			`{"defaultAction":"SCMP_ACT_ALLOW","flags":["LOG"]}`,
			`linux.seccomp.flags[0]: "LOG" is not one of SECCOMP_FILTER_FLAG_LOG, `, errdefs.ErrInvalidArgument,
		},
		"listener metadata alone": {
			`{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}`,
			`linux.seccomp.listenerMetadata: "x" must not be set without listenerPath`, errdefs.ErrInvalidArgument,
		},
		"no names": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO"}]}`,
			`linux.seccomp.syscalls[0].names: has no entry`, errdefs.ErrInvalidArgument,
		},
		"empty name": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read",""],"action":"SCMP_ACT_ERRNO"}]}`,
			`linux.seccomp.syscalls[0].names[1]: is empty`, errdefs.ErrInvalidArgument,
		},
		"action": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]}`,
			`linux.seccomp.syscalls[0].action: "" is not one of `, errdefs.ErrInvalidArgument,
		},
		"action notify": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`,
			`linux.seccomp.listenerPath: is required for SCMP_ACT_NOTIFY`, errdefs.ErrInvalidArgument,
		},
		"notify of the call that hands the listener over": {
			`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","syscalls":[{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}]}`,
			`linux.seccomp.syscalls[0].names[1]: "write" can not have SCMP_ACT_NOTIFY`, errdefs.ErrInvalidArgument,
		},
		"errno of a notification": {
			`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY","errnoRet":1}]}`,
			`linux.seccomp.syscalls[0].errnoRet: 1 is set, but SCMP_ACT_NOTIFY returns no errno`, errdefs.ErrInvalidArgument,
		},
		"operator": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRAP"},
			  {"names":["write"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"op":"=="}]}]}`,
			`linux.seccomp.syscalls[1].args[0].op: "==" is not one of SCMP_CMP_NE, SCMP_CMP_LT, `, errdefs.ErrInvalidArgument,
		},
		"argument": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRAP","args":[
			  {"index":5,"op":"SCMP_CMP_EQ"},{"index":6,"op":"SCMP_CMP_EQ"}]}]}`,
			`linux.seccomp.syscalls[0].args[1].index: 6 is not one of the six arguments`, errdefs.ErrInvalidArgument,
		},
		"contradiction": {
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
			  {"names":["read"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"op":"SCMP_CMP_EQ","value":1}]},
			  {"names":["write"],"action":"SCMP_ACT_TRAP"},
			  {"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"op":"SCMP_CMP_EQ","value":1}]}]}`,
			`linux.seccomp.syscalls[2].action: contradicts syscalls[0]`, errdefs.ErrInvalidArgument,
		},
	} {
		t.Run(name, func(t *testing.T) {
			program, _, err := Compile(parse(t, tc.profile), "amd64")
			assert.Nil(t, program)
			assert.ErrorContains(t, err, tc.want)
			assert.ErrorIs(t, err, tc.kind)
			var e *Error
			assert.ErrorAs(t, err, &e)
			assert.Contains(t, tc.want, "linux.seccomp."+e.Path+":")
		})
	}
}

func TestCompileNeedsTablesOfTheNativeArchitecture(t *testing.T) {
	_, _, err := Compile(parse(t, `{"defaultAction":"SCMP_ACT_ALLOW"}`), "sparc64")
	assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
	assert.ErrorContains(t, err, "sparc64")
}

func TestNoConfigurationIsNoFilter(t *testing.T) {
	for _, s := range []*specs.LinuxSeccomp{nil, {}, {Architectures: []specs.Arch{specs.ArchX86}}} {
		program, flags, err := Compile(s, "")
		assert.NoError(t, err)
		assert.Nil(t, program)
		assert.Zero(t, flags)
	}
}

func TestFlags(t *testing.T) {
	for list, want := range map[string]uint32{
		``:                                       unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, // as runc
		`"flags":[],`:                            0,
		`"flags":["SECCOMP_FILTER_FLAG_TSYNC"],`: 0,
		`"flags":["SECCOMP_FILTER_FLAG_LOG"],`:   unix.SECCOMP_FILTER_FLAG_LOG,
		`"flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"],`: unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	} {
		_, flags, err := Compile(parse(t, `{`+list+`"defaultAction":"SCMP_ACT_ALLOW"}`), "amd64")
		assert.NoError(t, err)
		assert.Equal(t, want, flags, list)
	}
}

func TestActions(t *testing.T) {
	for json, want := range map[string]uint32{
		`"SCMP_ACT_KILL"`:                   unix.SECCOMP_RET_KILL_THREAD,
		`"SCMP_ACT_KILL_THREAD"`:            unix.SECCOMP_RET_KILL_THREAD,
		`"SCMP_ACT_KILL_PROCESS"`:           unix.SECCOMP_RET_KILL_PROCESS,
		`"SCMP_ACT_TRAP"`:                   unix.SECCOMP_RET_TRAP,
		`"SCMP_ACT_ERRNO"`:                  unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM),
		`"SCMP_ACT_ERRNO","errnoRet":0`:     unix.SECCOMP_RET_ERRNO,
		`"SCMP_ACT_ERRNO","errnoRet":38`:    unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS),
		`"SCMP_ACT_TRACE"`:                  unix.SECCOMP_RET_TRACE | uint32(unix.EPERM),
		`"SCMP_ACT_TRACE","errnoRet":65535`: unix.SECCOMP_RET_TRACE | 65535,
		`"SCMP_ACT_LOG"`:                    unix.SECCOMP_RET_LOG,
		`"SCMP_ACT_ALLOW"`:                  unix.SECCOMP_RET_ALLOW,
	} {
		t.Run(json, func(t *testing.T) {
			p := compile(t, parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":99,"syscalls":[
				{"names":["write"],"action":`+json+`},{"names":["dup"],"action":"SCMP_ACT_ALLOW"}]}`), "amd64")
			assert.EqualValues(t, want, p.decide(amd64(unix.SYS_WRITE)))
			assert.EqualValues(t, unix.SECCOMP_RET_ERRNO|99, p.decide(amd64(unix.SYS_READ)))

			def := strings.Replace(json, "errnoRet", "defaultErrnoRet", 1)
			p = compile(t, parse(t, `{"defaultAction":`+def+`,"syscalls":[
				{"names":["write","dup"],"action":"SCMP_ACT_ERRNO","errnoRet":99}]}`), "amd64")
			assert.EqualValues(t, want, p.decide(amd64(unix.SYS_READ)))
			assert.EqualValues(t, unix.SECCOMP_RET_ERRNO|99, p.decide(amd64(unix.SYS_WRITE)))
		})
	}
}

// conds makes a profile that allows personality(2) under conditions.
func conds(json string) string {
	return `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],
		"syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[` + json + `]}]}`
}

func TestOperatorsCompare64Bits(t *testing.T) {
	const h = 1 << 32
	for _, tc := range []struct {
		op         string
		value, two uint64
		met, unmet []uint64
	}{
		{"SCMP_CMP_EQ", 5, 0, []uint64{5}, []uint64{0, 4, 6, h + 5, 5 * h}},
		{"SCMP_CMP_EQ", 7*h + 5, 0, []uint64{7*h + 5}, []uint64{5, 7 * h, 7*h + 4, 8*h + 5}},
		{"SCMP_CMP_NE", 5, 0, []uint64{0, 4, 6, h + 5}, []uint64{5}},
		{"SCMP_CMP_NE", 7*h + 5, 0, []uint64{5, 7 * h, 7*h + 6}, []uint64{7*h + 5}},
		{"SCMP_CMP_LT", 7*h + 5, 0, []uint64{0, 9, 6*h + 9, 7 * h, 7*h + 4}, []uint64{7*h + 5, 7*h + 6, 8 * h, 1<<64 - 1}},
		{"SCMP_CMP_LE", 7*h + 5, 0, []uint64{0, 9, 6*h + 9, 7 * h, 7*h + 5}, []uint64{7*h + 6, 8 * h, 1<<64 - 1}},
		{"SCMP_CMP_GT", 7*h + 5, 0, []uint64{7*h + 6, 8 * h, 1<<64 - 1}, []uint64{0, 9, 6*h + 9, 7 * h, 7*h + 5}},
		{"SCMP_CMP_GE", 7*h + 5, 0, []uint64{7*h + 5, 7*h + 6, 8 * h, 1<<64 - 1}, []uint64{0, 9, 6*h + 9, 7 * h, 7*h + 4}},
		{"SCMP_CMP_MASKED_EQ", 0xf0, 0x50, []uint64{0x50, 0x5f, h + 0x50, 0xfff50}, []uint64{0, 0x60, 0xf0, 5}},
		{"SCMP_CMP_MASKED_EQ", 7 * h, 2 * h, []uint64{2 * h, 2*h + 9, 10 * h}, []uint64{2, 3 * h, 0}},
		{"SCMP_CMP_MASKED_EQ", 7*h + 1, 2*h + 1, []uint64{2*h + 1, 2*h + 3}, []uint64{2 * h, 1, 3*h + 1}},
		{"SCMP_CMP_MASKED_EQ", 0xf0, 0x5f, []uint64{0x50}, []uint64{0}}, // value bits outside of the mask
		{"SCMP_CMP_MASKED_EQ", 0, 0, []uint64{0, 1, 1<<64 - 1}, nil},
	} {
		t.Run(fmt.Sprintf("%s %#x %#x", tc.op, tc.value, tc.two), func(t *testing.T) {
			for index := range uint64(maxArgs) {
				p := compile(t, parse(t, conds(fmt.Sprintf(`{"index":%d,"value":%d,"valueTwo":%d,"op":%q}`,
					index, tc.value, tc.two, tc.op))), "amd64")
				c := amd64(unix.SYS_PERSONALITY)
				for _, v := range tc.met {
					c.args[index] = v
					assert.Equal(t, actAllow, p.decide(c), "%v", c)
				}
				for _, v := range tc.unmet {
					c.args[index] = v
					assert.Equal(t, actErrno|1, p.decide(c), "%v", c)
				}
			}
		})
	}
}

func TestOperatorsCompareLowWordsIn32BitABIs(t *testing.T) {
	const h = 1 << 32
	p := compile(t, parse(t, conds(fmt.Sprintf(`{"index":2,"value":%d,"op":"SCMP_CMP_EQ"}`, uint64(h+5)))), "amd64")
	assert.Equal(t, actAllow, p.decide(i386(136, 0, 0, 5)))
	assert.Equal(t, actErrno|1, p.decide(i386(136, 0, 0, 6)))
	assert.Equal(t, actAllow, p.decide(amd64(x32Bit+unix.SYS_PERSONALITY, 0, 0, 3*h+5)))
	assert.Equal(t, actErrno|1, p.decide(amd64(unix.SYS_PERSONALITY, 0, 0, 5)))
}

func TestConditionsOfOneRule(t *testing.T) {
	t.Run("on different arguments are all needed", func(t *testing.T) {
		p := compile(t, parse(t, conds(`{"index":3,"value":5,"op":"SCMP_CMP_GT"},{"index":0,"value":1,"op":"SCMP_CMP_EQ"}`)), "amd64")
		for c, want := range map[[2]uint64]action{
			{1, 6}: actAllow, {1, 5}: actErrno | 1, {2, 6}: actErrno | 1, {0, 0}: actErrno | 1,
		} {
			assert.Equal(t, want, p.decide(amd64(unix.SYS_PERSONALITY, c[0], 0, 0, c[1])), "%v", c)
		}
	})
	t.Run("on one argument are alternatives, as in runc", func(t *testing.T) {
		p := compile(t, parse(t, conds(`{"index":0,"value":1,"op":"SCMP_CMP_EQ"},
			{"index":0,"value":9,"op":"SCMP_CMP_GT"},{"index":1,"value":3,"op":"SCMP_CMP_EQ"}`)), "amd64")
		for c, want := range map[[2]uint64]action{
			{1, 0}: actAllow, {10, 0}: actAllow, {5, 3}: actAllow, {5, 5}: actErrno | 1, {9, 0}: actErrno | 1,
		} {
			assert.Equal(t, want, p.decide(amd64(unix.SYS_PERSONALITY, c[0], c[1])), "%v", c)
		}
	})
}

func TestRulesCombine(t *testing.T) {
	rule := func(action string, conds ...string) string {
		args := make([]string, len(conds))
		for i, c := range conds {
			args[i] = fmt.Sprintf(`{"index":%c,"op":"SCMP_CMP_%s","value":%s}`, c[0], c[1:3], c[3:])
		}
		return `{"names":["dup","personality"],"action":"SCMP_ACT_` + action + `","args":[` + strings.Join(args, ",") + `]}`
	}
	const (
		trap  = actTrap
		allow = actAllow
		def   = actErrno | 1
	)
	for name, tc := range map[string]struct {
		rules []string
		want  map[[2]uint64]action
	}{
		"either": {
			[]string{rule("ALLOW", "0EQ1"), rule("ALLOW", "0EQ2", "1EQ2"), rule("ALLOW", "1EQ7")},
			map[[2]uint64]action{{1, 0}: allow, {2, 2}: allow, {2, 1}: def, {2, 7}: allow, {9, 7}: allow},
		},
		"the first unconditional one settles it": {
			[]string{rule("TRAP", "0EQ1"), rule("ALLOW"), rule("TRAP")},
			map[[2]uint64]action{{1, 0}: allow, {2, 0}: allow},
		},
		"one that repeats the default is no rule": {
			[]string{rule("ERRNO"), rule("ALLOW", "0EQ1")},
			map[[2]uint64]action{{1, 0}: allow, {2, 0}: def},
		},
		"the particular value before the range": {
			[]string{rule("TRAP", "0GT4"), rule("LOG", "0GT8"), rule("ALLOW", "0EQ6")},
			map[[2]uint64]action{{5, 0}: trap, {6, 0}: allow, {7, 0}: trap, {9, 0}: actLog, {4, 0}: def},
		},
		"the smaller range first, from below": {
			[]string{rule("TRAP", "0LT8"), rule("ALLOW", "0LT4")},
			map[[2]uint64]action{{3, 0}: allow, {4, 0}: trap, {8, 0}: def},
		},
		"the higher argument first": {
			[]string{rule("TRAP", "0EQ1"), rule("ALLOW", "1EQ1")},
			map[[2]uint64]action{{1, 1}: allow, {1, 0}: trap},
		},
		"the shorter of two that begin the same": {
			[]string{rule("TRAP", "0EQ1", "1EQ1"), rule("ALLOW", "0EQ1"), rule("TRAP", "0EQ1", "1EQ2")},
			map[[2]uint64]action{{1, 1}: allow, {1, 2}: allow, {1, 0}: allow, {0, 1}: def},
		},
		"twice the same": {
			[]string{rule("ALLOW", "0EQ1"), rule("ALLOW", "0EQ1")},
			map[[2]uint64]action{{1, 0}: allow, {0, 0}: def},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := compile(t, parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[`+strings.Join(tc.rules, ",")+`]}`), "amd64")
			for args, want := range tc.want {
				for _, nr := range []uint32{unix.SYS_DUP, unix.SYS_PERSONALITY} {
					assert.Equal(t, want, p.decide(amd64(nr, args[0], args[1])), "%v", args)
				}
			}
		})
	}
}

func TestArchitectures(t *testing.T) {
	const profile = `{"defaultAction":"SCMP_ACT_ERRNO","architectures":[%s],"syscalls":[
		{"names":["read","nosuchcall"],"action":"SCMP_ACT_ALLOW"},{"names":["fchmodat2"],"action":"SCMP_ACT_LOG"}]}`
	arm64 := func(audit, nr uint32) call { return call{audit: audit, nr: nr} }
	for name, tc := range map[string]struct {
		goarch string
		arches string
		want   map[call]action
	}{
		"none listed is the native one": {"amd64", ``, map[call]action{
			amd64(0): actAllow, amd64(452): actLog, amd64(1): actErrno | 1, i386(3): actKillThread,
			amd64(x32Bit): actKillThread, amd64(x32Bit + 452): actKillThread, amd64(1<<32 - 1): actErrno | 1,
		}},
		"the native one need not be listed": {"amd64", `"SCMP_ARCH_X86"`, map[call]action{
			amd64(0): actAllow, i386(3): actAllow, i386(0): actErrno | 1, i386(452): actLog, amd64(x32Bit): actKillThread,
		}},
		"x32": {"amd64", `"SCMP_ARCH_X32"`, map[call]action{
			amd64(0): actAllow, amd64(x32Bit): actAllow, amd64(x32Bit + 1): actErrno | 1, amd64(x32Bit + 452): actLog,
			amd64(x32Bit + 453): actENOSYS, i386(3): actKillThread,
		}},
		"those of other machines change nothing": {"amd64", `"SCMP_ARCH_AARCH64","SCMP_ARCH_S390X"`, map[call]action{
			amd64(0): actAllow, amd64(1): actErrno | 1, arm64(unix.AUDIT_ARCH_AARCH64, 63): actKillThread,
		}},
		"arm64": {"arm64", `"SCMP_ARCH_ARM","SCMP_ARCH_AARCH64"`, map[call]action{
			arm64(unix.AUDIT_ARCH_AARCH64, 63): actAllow, arm64(unix.AUDIT_ARCH_AARCH64, 64): actErrno | 1,
			arm64(unix.AUDIT_ARCH_AARCH64, 453): actENOSYS, arm64(unix.AUDIT_ARCH_ARM, 3): actAllow,
			arm64(unix.AUDIT_ARCH_ARM, 4): actErrno | 1, amd64(0): actKillThread,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := compile(t, parse(t, fmt.Sprintf(profile, tc.arches)), tc.goarch)
			for c, want := range tc.want {
				assert.Equal(t, want, p.decide(c), "%v", c)
			}
		})
	}
}

func TestCallsNewerThanTheProfileDoNotExist(t *testing.T) {
	for def, newer := range map[string]action{
		`"SCMP_ACT_ERRNO"`:                     actENOSYS,
		`"SCMP_ACT_ERRNO","defaultErrnoRet":5`: actENOSYS,
		`"SCMP_ACT_KILL_PROCESS"`:              actENOSYS,
		`"SCMP_ACT_TRAP"`:                      actENOSYS,
		`"SCMP_ACT_ALLOW"`:                     actAllow,
		`"SCMP_ACT_LOG"`:                       actLog,
		`"SCMP_ACT_TRACE"`:                     actTrace | 1,
	} {
		// The highest call counts even if its rule repeats the default.
		p := compile(t, parse(t, `{"defaultAction":`+def+`,"syscalls":[{"names":["dup"],"action":"SCMP_ACT_ALLOW"},
			{"names":["statx"],"action":`+strings.ReplaceAll(def, "defaultErrnoRet", "errnoRet")+`}]}`), "amd64")
		assert.Equal(t, newer, p.decide(amd64(unix.SYS_STATX+1)), def)
		assert.Equal(t, newer, p.decide(amd64(1000)), def)
		if newer == actENOSYS {
			assert.NotEqual(t, newer, p.decide(amd64(unix.SYS_STATX)), def)
		}
	}
	t.Run("private calls of ARM are not new", func(t *testing.T) {
		p := compile(t, parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_ARM"],
			"syscalls":[{"names":["dup","set_tls"],"action":"SCMP_ACT_ALLOW"}]}`), "arm64")
		for nr, want := range map[uint32]action{41: actAllow, 40: actErrno | 1, 42: actENOSYS, 0xf0005: actAllow} {
			assert.Equal(t, want, p.decide(call{audit: unix.AUDIT_ARCH_ARM, nr: nr}), "%d", nr)
		}
	})
}

func TestMultiplexedCallsOfI386(t *testing.T) {
	p := compile(t, parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
		{"names":["bind","semop","recv"],"action":"SCMP_ACT_ALLOW"},
		{"names":["socket"],"action":"SCMP_ACT_LOG","args":[{"index":0,"op":"SCMP_CMP_EQ","value":2}]},
		{"names":["statx"],"action":"SCMP_ACT_ALLOW"}]}`), "amd64")
	const socketcall, ipc, socket, bind = 102, 117, 359, 361
	for c, want := range map[call]action{
		i386(socketcall, 2):    actAllow, // bind
		i386(socketcall, 10):   actAllow, // recv, which has no number of its own
		i386(socketcall, 1):    actLog,   // socket: its domain is behind a pointer
		i386(socketcall, 3):    actErrno | 1,
		i386(ipc, 1):           actAllow, // semop
		i386(ipc, 2):           actErrno | 1,
		i386(bind):             actAllow,
		i386(socket, 2):        actLog,
		i386(socket, 3):        actErrno | 1,
		amd64(socketcall, 2):   actErrno | 1, // getuid there
		amd64(unix.SYS_SEMOP):  actAllow,
		amd64(unix.SYS_SOCKET): actErrno | 1,
	} {
		assert.Equal(t, want, p.decide(c), "%v", c)
	}
}

// manyRules makes a profile with so many conditions that jumps over them are
// long, and with none of two neighbours treated alike.
func manyRules(values int) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}}
	conditional := []string{"personality", "clone", "unshare"}
	for i := 0; i < len(syscalls); i += 2 {
		if slices.Contains(conditional, syscalls[i].name) {
			continue
		}
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{syscalls[i].name}, Action: specs.ActAllow})
	}
	for _, name := range conditional {
		for v := range values {
			s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
				Names: []string{name}, Action: specs.ActLog,
				Args: []specs.LinuxSeccompArg{{Index: uint(v % maxArgs), Value: uint64(v) << (v % 40), Op: specs.OpEqualTo}},
			})
		}
	}
	return s
}

func TestLongPrograms(t *testing.T) {
	s := manyRules(150)
	p := compile(t, s, "amd64")
	require.Greater(t, len(p), 2000)
	n := naive{s, "amd64"}
	for _, a := range abisOf(t, "amd64") {
		for nr := range uint32(500) {
			for _, args := range [][maxArgs]uint64{{}, {18 << 18}, {0, 0, 0, 0, 0, 149 << 29}, {0, 1 << 1}} {
				want, sure := n.decide(t, a, nr, args)
				require.True(t, sure)
				require.Equal(t, want, p.decide(call{a.audit, nr | a.bit, args}), "%s %d %v", a.name, nr, args)
			}
		}
	}
	t.Run("longer than the kernel takes", func(t *testing.T) {
		_, _, err := Compile(manyRules(500), "amd64")
		assert.ErrorContains(t, err, "linux.seccomp.syscalls: need a filter of")
		assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	})
}

func TestSyscallTables(t *testing.T) {
	for i := range len(syscalls) - 1 {
		require.Less(t, syscalls[i].name, syscalls[i+1].name)
	}
	for name, want := range map[string][columns]int32{
		"read":             {unix.SYS_READ, 3, 0, 63, 3},
		"execve":           {unix.SYS_EXECVE, 11, 520, 221, 11},
		"mmap2":            {-1, 192, -1, -1, 192},
		"preadv2":          {unix.SYS_PREADV2, 378, 546, 286, 392},
		"set_tls":          {-1, -1, -1, -1, 0xf0005},
		"fchmodat2":        {452, 452, 452, 452, 452},
		"socketcall":       {-1, 102, -1, -1, -1},
		"renameat":         {unix.SYS_RENAMEAT, 302, 264, 38, 329},
		"map_shadow_stack": {453, 453, -1, 453, 453},
	} {
		e, ok := lookup(name)
		require.True(t, ok, name)
		assert.Equal(t, want, e.nr, name)
	}
	for _, name := range []string{"", "nosuchcall", "zzz", "READ"} {
		_, ok := lookup(name)
		assert.False(t, ok, name)
	}
	for i, m := range muxed {
		_, ok := lookup(m.name)
		assert.True(t, ok, m.name)
		assert.True(t, i == 0 || muxed[i-1].name < m.name, m.name)
	}
}
