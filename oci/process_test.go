package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func process(change func(*specs.Process)) func(*specs.Spec) {
	return func(s *specs.Spec) { change(s.Process) }
}

func TestProcessesThatAreRefused(t *testing.T) {
	testRefused(t, []refusedCase{
		{"none", func(s *specs.Spec) { s.Process = nil }, "process: is required", nil},
		{"no args", process(func(p *specs.Process) { p.Args = nil }), "process.args: must have at least one element", nil},
		{"NUL in args", process(func(p *specs.Process) { p.Args = []string{"a", "b\x00"} }), `process.args[1]: "b\x00" has a NUL byte`, nil},
		{"NUL in env", process(func(p *specs.Process) { p.Env = []string{"a=\x00"} }), `process.env[0]: "a=\x00" has a NUL byte`, nil},
		{"env without value", process(func(p *specs.Process) { p.Env = []string{"A=b", "C"} }), `process.env[1]: "C" is not of the form name=value`, nil},
		{"env without name", process(func(p *specs.Process) { p.Env = []string{"=b"} }), `process.env[0]: "=b" is not of the form name=value`, nil},
		{"no cwd", process(func(p *specs.Process) { p.Cwd = "" }), "process.cwd: is required", nil},
		{"relative cwd", process(func(p *specs.Process) { p.Cwd = "tmp" }), `process.cwd: "tmp" is not an absolute path`, nil},
		{"NUL in cwd", process(func(p *specs.Process) { p.Cwd = "/\x00" }), `process.cwd: "/\x00" has a NUL byte`, nil},
		{"uid -1", process(func(p *specs.Process) { p.User.UID = noID }), "process.user.uid: 4294967295 is not a user id", nil},
		{"gid -1", process(func(p *specs.Process) { p.User.GID = noID }), "process.user.gid: 4294967295 is not a group id", nil},
		{"group -1", process(func(p *specs.Process) { p.User.AdditionalGids = []uint32{1, noID} }), "process.user.additionalGids[1]: 4294967295 is not a group id", nil},
		{"many groups", process(func(p *specs.Process) { p.User.AdditionalGids = make([]uint32, 65537) }), "process.user.additionalGids: has more than 65536 groups", nil},
		{"umask", process(func(p *specs.Process) { p.User.Umask = ptr(uint32(0o1000)) }), "process.user.umask: 512 is more than 0777", nil},
		{"oom score", process(func(p *specs.Process) { p.OOMScoreAdj = ptr(1001) }), "process.oomScoreAdj: 1001 is not between -1000 and 1000", nil},
		{
			"height", process(func(p *specs.Process) { p.Terminal, p.ConsoleSize = true, &specs.Box{Height: 65536} }),
			"process.consoleSize.height: 65536 is more than 65535", nil,
		},
		{
			"width", process(func(p *specs.Process) { p.Terminal, p.ConsoleSize = true, &specs.Box{Width: 65536} }),
			"process.consoleSize.width: 65536 is more than 65535", nil,
		},
		{
			"rlimit", process(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }),
			`process.rlimits[0].type: "RLIMIT_X" is not one of RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_LOCKS, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_RSS, RLIMIT_RTPRIO, RLIMIT_RTTIME, RLIMIT_SIGPENDING, RLIMIT_STACK`, nil,
		},
		{
			"rlimit twice", process(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS"}, {Type: "RLIMIT_AS"}} }),
			`process.rlimits[1].type: "RLIMIT_AS" is there twice`, nil,
		},
		{
			"soft rlimit", process(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 2, Hard: 1}} }),
			"process.rlimits[0].soft: 2 is more than the hard limit, 1", nil,
		},
	})
}

func TestConsoleSizeIsIgnoredWithoutTerminal(t *testing.T) {
	translate(t, process(func(p *specs.Process) { p.ConsoleSize = &specs.Box{Height: 1 << 20} }))
}

func TestNewlinesAreGoodInArgumentsAndEnvironment(t *testing.T) {
	translate(t, process(func(p *specs.Process) { p.Args, p.Env = []string{"a\nb"}, []string{"A=\n"} }))
}

func TestPersonality(t *testing.T) {
	domain := func(d specs.LinuxPersonalityDomain, flags ...specs.LinuxPersonalityFlag) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: d, Flags: flags} }
	}
	assert.Nil(t, translate(t).Personality)
	assert.Equal(t, ptr(uint32(0)), translate(t, domain("LINUX")).Personality)
	assert.Equal(t, ptr(uint32(8)), translate(t, domain("LINUX32")).Personality)
	testRefused(t, []refusedCase{
		{"unknown", domain("BSD"), `linux.personality.domain: "BSD" is not one of LINUX, LINUX32`, nil},
		{"flags", domain("LINUX", "X"), `linux.personality.flags[0]: "X" is not supported: the runtime-spec has no flags`, nil},
	})
}

const (
	chown    = 1 << 0
	kill     = 1 << 5
	netRaw   = 1 << 13
	sysAdmin = 1 << 21
	restore  = 1 << 40
)

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		name string
		caps *specs.LinuxCapabilities
		want capSets
		warn []string
	}{
		{"none at all if the spec has none", nil, capSets{}, nil},
		{
			"each set by itself",
			&specs.LinuxCapabilities{
				Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"},
				Permitted:   []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"},
				Effective:   []string{"CAP_NET_RAW"},
				Inheritable: []string{"CAP_KILL", "CAP_CHOWN"},
				Ambient:     []string{"CAP_KILL"},
			},
			capSets{chown | kill | restore, chown | kill | netRaw, netRaw, chown | kill, kill}, nil,
		},
		{
			"unknown names are a warning, as the runtime-spec demands",
			&specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NEW", "kill"}},
			capSets{bounding: kill},
			[]string{
				`process.capabilities.bounding[1]: "CAP_NEW" is not a capability, and is ignored`,
				`process.capabilities.bounding[2]: "kill" is not a capability, and is ignored`,
			},
		},
		{
			"what the kernel would not grant is one too",
			&specs.LinuxCapabilities{
				Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL", "CAP_CHOWN"},
				Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"},
			},
			capSets{permitted: kill, effective: kill},
			[]string{
				"process.capabilities.effective: CAP_CHOWN is not in permitted, and is ignored",
				"process.capabilities.inheritable: CAP_KILL is not in bounding, and is ignored",
				"process.capabilities.ambient: CAP_KILL is not in permitted and inheritable, and is ignored",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, warnings := capabilitiesOf(c.caps)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.warn, warnings)
			p := translate(t, process(func(p *specs.Process) { p.Capabilities = c.caps }))
			assert.Equal(t, c.warn, p.Warnings)
		})
	}
}

func TestEveryCapabilityHasAName(t *testing.T) {
	assert.Len(t, capabilityNames, unix.CAP_LAST_CAP+1)
	assert.Equal(t, unix.CAP_SYS_ADMIN, capabilityNumbers["CAP_SYS_ADMIN"])
	assert.Equal(t, unix.CAP_CHECKPOINT_RESTORE, capabilityNumbers["CAP_CHECKPOINT_RESTORE"])
}

func TestCapabilitiesThatTheRuntimeLacksAreWarnings(t *testing.T) {
	p := &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_SYS_ADMIN"}}}
	assert.Empty(t, MissingCapabilities(p, AllCapabilities))
	assert.Equal(t,
		[]string{`process.capabilities: "CAP_SYS_ADMIN" can not be granted: the runtime does not have it`},
		MissingCapabilities(p, AllCapabilities&^sysAdmin))
}

func TestProcessOfAnExecIsCheckedToo(t *testing.T) {
	p, warnings, err := ParseProcess([]byte(`{"args": ["ls"], "cwd": "/", "user": {"uid": 1}, "capabilities": {"bounding": ["CAP_X"]}}`))
	require.NoError(t, err)
	assert.Equal(t, uint32(1), p.User.UID)
	assert.Len(t, warnings, 1)
	for in, want := range map[string]string{
		`{"cwd": "/"}`: "process.args: must have at least one element",
		`{"args": 1}`:  "process.args: a JSON number can not be a []string",
		`{"args": ["x"], "cwd": "/", "apparmorProfile": "a\nb"}`: `process.apparmorProfile: "a\nb" has a control character`,
	} {
		_, _, err := ParseProcess([]byte(in))
		assert.EqualError(t, err, want)
	}
}
