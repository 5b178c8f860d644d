package oci

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

func user1000() *specs.Process {
	caps := []string{"CAP_CHOWN"}
	return &specs.Process{
		Args: []string{"sh", "-c", "x"}, Cwd: "/work", Env: []string{"PATH=/bin"},
		User:         specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{5, 6}},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}},
	}
}

func ops(t *testing.T, p *specs.Process, o ProcessOptions) (prepare, start []string) {
	t.Helper()
	a, b, err := ProcessOps(p, o)
	require.NoError(t, err)
	return texts(a), texts(b)
}

func streams() ProcessOptions { return ProcessOptions{Stdin: 0, Stdout: 1, Stderr: 2} }

func TestOperationsOfAProcess(t *testing.T) {
	prepare, start := ops(t, user1000(), streams())
	assert.Equal(t, []string{
		"reset signals", "setsid", "dup2 to descriptor 0", "dup2 to descriptor 1", "dup2 to descriptor 2",
		"set rlimit 4 to 1, 2", "umask 022", `chdir "/work"`,
		"drop bounding capabilities except 0x1", "keep capabilities", "setgroups [5 6]", "setgid 100", "setuid 1000",
		"set capabilities to 0x1, 0x1, 0x0", "set ambient capabilities to 0x0", `chdir "/work", if it was refused`, `look up "sh"`,
	}, prepare)
	assert.Equal(t, []string{"close descriptors from 3", `exec ["sh" "-c" "x"]`}, start)
}

// What may be refused to a process says which property it is of.
func TestOperationsNameTheirProperty(t *testing.T) {
	p, o := user1000(), streams()
	p.ApparmorProfile, p.SelinuxLabel = "profile", "label"
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	o.Terminal, o.Procfs, o.AppArmorAttr = true, 3, AppArmorAttr
	o.Personality, o.MemoryPolicy, o.Seccomp = ptr(uint32(8)), &MemoryPolicy{Mode: 2, Nodes: []int{0}}, make([]byte, 8)
	prepare, start, err := ProcessOps(p, o)
	require.NoError(t, err)
	initial, final := AffinityOps(p)
	var named []string
	for _, op := range slices.Concat(initial, final, prepare, start) {
		if op.Property() != "" {
			named = append(named, op.Property())
		}
	}
	assert.Equal(t, []string{
		"process.execCPUAffinity.initial", "process.execCPUAffinity.final", "process.terminal", "linux.personality", "linux.memoryPolicy", "process.rlimits[0]",
		"process.apparmorProfile", "process.selinuxLabel", "process.user.additionalGids", "process.user.gid", "process.user.uid",
		"process.capabilities", "process.capabilities.ambient", "linux.seccomp",
	}, named)
}

func TestTerminalIsAllThreeStreams(t *testing.T) {
	o := ProcessOptions{Stdin: 0, Stdout: initop.None, Stderr: initop.None, Terminal: true}
	prepare, _, err := ProcessOps(user1000(), o)
	require.NoError(t, err)
	assert.Equal(t, "set controlling terminal to descriptor 0", prepare[5].String())
	_, err = initop.Encode(prepare)
	require.NoError(t, err)
	assert.Equal(t, 1, initop.Descriptors(prepare))
}

func TestOptionalOperations(t *testing.T) {
	p, o := user1000(), streams()
	p.User.Umask = ptr(uint32(0o27))
	o.Personality = ptr(uint32(8))
	prepare, _ := ops(t, p, o)
	assert.Contains(t, prepare, "umask 027")
	assert.Contains(t, prepare, "personality 0x8")
}

// The filter is the last thing before execve. Loading it needs either
// no_new_privs or CAP_SYS_ADMIN, which the process itself may not have.
func TestFilterIsLoadedLast(t *testing.T) {
	filter := streams()
	filter.Seccomp = make([]byte, 16)
	const load, run = "load seccomp filter of 16 bytes", `exec ["sh" "-c" "x"]`
	for _, c := range []struct {
		name    string
		change  func(*specs.Process)
		prepare string // the capabilities
		start   []string
	}{
		{
			"no_new_privs", func(p *specs.Process) { p.NoNewPrivileges = true },
			"set capabilities to 0x1, 0x1, 0x0", []string{"set no_new_privs", load, run},
		},
		{
			"without", func(*specs.Process) {},
			"set capabilities to 0x1, 0x200001, 0x0",
			[]string{"set capabilities to 0x200001, 0x200001, 0x0", load, "set capabilities to 0x1, 0x1, 0x0", run},
		},
		{
			"with CAP_SYS_ADMIN", func(p *specs.Process) {
				p.Capabilities.Permitted = []string{"CAP_SYS_ADMIN"}
				p.Capabilities.Effective = p.Capabilities.Permitted
			},
			"set capabilities to 0x200000, 0x200000, 0x0", []string{load, run},
		},
		{
			"permitted only", func(p *specs.Process) {
				p.Capabilities.Permitted, p.Capabilities.Effective = []string{"CAP_SYS_ADMIN"}, nil
			},
			"set capabilities to 0x0, 0x200000, 0x0",
			[]string{"set capabilities to 0x200000, 0x200000, 0x0", load, "set capabilities to 0x0, 0x200000, 0x0", run},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := user1000()
			c.change(p)
			prepare, start := ops(t, p, filter)
			assert.Contains(t, prepare, c.prepare)
			assert.Equal(t, append([]string{"close descriptors from 3"}, c.start...), start)
		})
	}
	t.Run("no filter", func(t *testing.T) {
		p := user1000()
		p.NoNewPrivileges = true
		_, start := ops(t, p, streams())
		assert.Equal(t, []string{"close descriptors from 3", "set no_new_privs", run}, start)
	})
}

func TestOnlyAvailableCapabilitiesAreSet(t *testing.T) {
	o := streams()
	o.Available = sysAdmin
	prepare, _ := ops(t, user1000(), o)
	assert.Contains(t, prepare, "drop bounding capabilities except 0x0")
	assert.Contains(t, prepare, "set capabilities to 0x0, 0x0, 0x0")
}

func TestExecutableIsLookedUpInThePathOfTheProcess(t *testing.T) {
	p := user1000()
	p.Env = []string{"PATH=/a", "X=1", "PATH=/b:/c"}
	prepare, _, err := ProcessOps(p, streams())
	require.NoError(t, err)
	assert.Equal(t, []string{"/b/sh", "/c/sh"}, prepare[len(prepare)-1].Candidates())

	p.Env = nil
	prepare, _, err = ProcessOps(p, streams())
	require.NoError(t, err)
	assert.Empty(t, prepare[len(prepare)-1].Candidates(), "without PATH there is nowhere to look")
}

func TestProcessOpsChecksTheProcess(t *testing.T) {
	_, _, err := ProcessOps(&specs.Process{}, streams())
	assert.EqualError(t, err, "process.args: must have at least one element")
}

func TestEnvironment(t *testing.T) {
	home := func() string { return "/home/u" }
	for _, c := range []struct {
		name      string
		env, want []string
		home      func() string
	}{
		{"none stays none", nil, nil, home},
		{"HOME is added", []string{}, []string{"HOME=/home/u"}, home},
		{"HOME of nobody", []string{"A=b"}, []string{"A=b", "HOME=/"}, nil},
		{"HOME that is not known", []string{}, []string{"HOME=/"}, func() string { return "" }},
		{"HOME that is there", []string{"HOME=/x", "A=b"}, []string{"HOME=/x", "A=b"}, func() string { panic("not needed") }},
		{"empty HOME", []string{"HOME=", "A=b"}, []string{"A=b", "HOME=/home/u"}, home},
		{"the last value counts", []string{"A=1", "B=2", "A=3"}, []string{"B=2", "A=3", "HOME=/home/u"}, home},
		{"an empty HOME after a good one", []string{"HOME=/x", "HOME="}, []string{"HOME=/home/u"}, home},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, prepareEnv(c.env, c.home))
		})
	}
}

func TestHomeDirectory(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:100::/home/app:\nlater:x:1000:100::/other:\nnul:x:7:7::/a\x00b:\n"
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/app", 5: "", 7: ""} {
		assert.Equal(t, want, HomeDir(strings.NewReader(passwd), uid))
	}
	t.Run("of a file that does not end", func(t *testing.T) {
		assert.Empty(t, HomeDir(endless{}, 0))
	})
	t.Run("of a file that can not be read", func(t *testing.T) {
		assert.Empty(t, HomeDir(io.MultiReader(strings.NewReader("root:x:0:"), failing{}), 0))
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "x\n"[i%2]
	}
	return len(p), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("bad disk") }

func TestExecHasWhatItDoesNotSayFromTheContainer(t *testing.T) {
	container := user1000()
	container.User.Umask = ptr(uint32(0o77))
	exec := &specs.Process{Args: []string{"ls"}, Cwd: "/"}
	got := ExecProcess(container, exec)
	assert.Equal(t, container.Capabilities, got.Capabilities)
	assert.Equal(t, container.Rlimits, got.Rlimits)
	assert.Equal(t, container.User.Umask, got.User.Umask)
	assert.Equal(t, uint32(0), got.User.UID)
	assert.Nil(t, exec.Capabilities, "the exec's own is not changed")

	own := user1000()
	own.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS"}}
	assert.Equal(t, own.Rlimits, ExecProcess(container, own).Rlimits)
}

// A startContainer hook has the rights and limits of the process, and nothing
// else of it.
func TestAStartContainerHookTakesThePlaceOfTheArguments(t *testing.T) {
	p := &specs.Process{Args: []string{"main"}, Cwd: "/w", Env: []string{"A=b"}, User: specs.User{UID: 7}, NoNewPrivileges: true}
	text := func(ops []initop.Op) (all []string) {
		for _, o := range ops {
			all = append(all, o.String())
		}
		return all
	}
	prepare, start, err := ProcessOps(p, ProcessOptions{Stdout: 1, Stderr: 2})
	require.NoError(t, err)
	hook := &specs.Hook{Path: "/h", Args: []string{"h", "arg"}, Env: []string{"X=y"}}
	hookPrepare, hookStart, err := ProcessOps(p, ProcessOptions{Stdout: 1, Stderr: 2, Hook: hook})
	require.NoError(t, err)
	last := len(prepare) - 1
	assert.Equal(t, text(prepare[:last]), text(hookPrepare[:last]))
	assert.Equal(t, initop.Lookup("/h", ""), hookPrepare[last])
	last = len(start) - 1
	assert.Equal(t, text(start[:last]), text(hookStart[:last]))
	assert.Equal(t, initop.Exec([]string{"h", "arg"}, []string{"X=y"}), hookStart[last])
}

func TestACreateContainerHookKeepsTheRightsOfTheRuntime(t *testing.T) {
	prepare, start := HookOps(specs.Hook{Path: "/h"}, ProcessOptions{Stdout: 1, Stderr: 2}, "/bundle")
	for _, o := range prepare {
		assert.NotContains(t, []initop.Code{initop.CodeSetUID, initop.CodeSetCaps, initop.CodeDropBounding}, o.Code())
	}
	assert.Contains(t, prepare, initop.TryChdir("/bundle"))
	assert.Equal(t, initop.Exec([]string{"/h"}, nil), start[len(start)-1], "the path is the argument of a hook that has none")
}
