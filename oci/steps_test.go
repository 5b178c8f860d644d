package oci

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sysctl(kv map[string]string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, newNS("network"), joinNS("ipc", "/i"), newNS("uts"))
		s.Linux.Sysctl = kv
	}
}

func TestSysctls(t *testing.T) {
	p := translate(t, sysctl(map[string]string{
		"net.ipv4.ip_forward":              "1",
		"net/ipv4/conf/eno2.100/rp_filter": "2",
		"net.ipv4.conf.eno3/7.rp_filter":   "3",
		"kernel.shm_rmid_forced":           "1",
		"fs.mqueue.msg_max":                "10",
		"kernel.domainname":                "x",
	}))
	assert.Equal(t, map[string]string{
		"net/ipv4/ip_forward":              "1",
		"net/ipv4/conf/eno2.100/rp_filter": "2",
		"net/ipv4/conf/eno3.7/rp_filter":   "3",
		"kernel/shm_rmid_forced":           "1",
		"fs/mqueue/msg_max":                "10",
		"kernel/domainname":                "x",
	}, p.Sysctl)
}

func TestSysctlsOfTheUserNamespace(t *testing.T) {
	p := translate(t, userNS(usual()), func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"user.max_user_namespaces": "1", "user/max_mnt_namespaces": "2"}
	})
	assert.Equal(t, map[string]string{"user/max_user_namespaces": "1", "user/max_mnt_namespaces": "2"}, p.UserSysctl)
	assert.Empty(t, p.Sysctl)
	testRefused(t, []refusedCase{{"twice", func(s *specs.Spec) {
		userNS(usual())(s)
		s.Linux.Sysctl = map[string]string{"user.x": "1", "user/x": "2"}
	}, `linux.sysctl["user/x"]: is there twice, as user/x`, nil}})
}

func TestSysctlsThatAreRefused(t *testing.T) {
	one := func(name string) func(*specs.Spec) { return sysctl(map[string]string{name: "1"}) }
	host := func(name string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{name: "1"} }
	}
	testRefused(t, []refusedCase{
		{"of the host", one("vm.swappiness"), `linux.sysctl["vm.swappiness"]: belongs to no namespace: it would be the host's`, nil},
		{"host network", host("net.core.somaxconn"), `linux.sysctl["net.core.somaxconn"]: needs a "network" namespace: it would be the host's`, nil},
		{"host ipc", host("kernel.sem"), `linux.sysctl["kernel.sem"]: needs a "ipc" namespace: it would be the host's`, nil},
		{"host name of the host", host("kernel.domainname"), `linux.sysctl["kernel.domainname"]: needs a "uts" namespace: it would be the host's`, nil},
		{"user namespaces", one("user.max_user_namespaces"), `linux.sysctl["user.max_user_namespaces"]: needs a "user" namespace: it would be the host's`, nil},
		{"host name", one("kernel.hostname"), `linux.sysctl["kernel.hostname"]: is not to be set here: hostname is the property for it`, nil},
		{"up", one("net/../kernel/core_pattern"), `linux.sysctl["net/../kernel/core_pattern"]: is not the name of a sysctl`, nil},
		{"up with dots", one("net.//.kernel.core_pattern"), `linux.sysctl["net.//.kernel.core_pattern"]: is not the name of a sysctl`, nil},
		{"double", one("net..x"), `linux.sysctl["net..x"]: is not the name of a sysctl`, nil},
		{"empty", one(""), `linux.sysctl[""]: is not the name of a sysctl`, nil},
		{"NUL", one("net.\x00"), `linux.sysctl["net.\x00"]: "net.\x00" has a NUL byte`, nil},
		{"NUL in the value", sysctl(map[string]string{"net.x": "\x00"}), `linux.sysctl["net.x"]: "\x00" has a NUL byte`, nil},
		{"twice", sysctl(map[string]string{"net.x": "1", "net/x": "2"}), `linux.sysctl["net/x"]: is there twice, as net/x`, nil},
	})
}

func TestPathsInTheContainer(t *testing.T) {
	p := translate(t, func(s *specs.Spec) {
		s.Linux.MaskedPaths = []string{"/proc//kcore", "/../etc/"}
		s.Linux.ReadonlyPaths = []string{"/proc/sys"}
		s.Linux.CgroupsPath = "system.slice:cri:x"
	})
	assert.Equal(t, []string{"/proc/kcore", "/etc"}, p.MaskedPaths)
	assert.Equal(t, []string{"/proc/sys"}, p.ReadonlyPaths)
	assert.Equal(t, "system.slice:cri:x", p.CgroupsPath)

	cgroup := func(v string) func(*specs.Spec) { return func(s *specs.Spec) { s.Linux.CgroupsPath = v } }
	testRefused(t, []refusedCase{
		{"masked", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/a", "b"} }, `linux.maskedPaths[1]: "b" is not an absolute path`, nil},
		{"readonly", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/\x00"} }, `linux.readonlyPaths[0]: "/\x00" has a NUL byte`, nil},
		{"cgroup newline", cgroup("/a\nlxc.x = y"), `linux.cgroupsPath: "/a\nlxc.x = y" has a control character`, nil},
		{"cgroup up", cgroup("/a/../../b"), `linux.cgroupsPath: "/a/../../b" has a ".." in it`, nil},
	})
}

func TestWhoMayDivideTheControlGroup(t *testing.T) {
	own := newNS("cgroup")
	mount := func(destination, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "cgroup", Source: source, Options: options}
	}
	for name, tc := range map[string]struct {
		namespace *specs.LinuxNamespace
		mount     specs.Mount
		want      bool
	}{
		"writable":              {&own, mount("/sys/fs/cgroup/", "cgroup", "nosuid"), true},
		"read-only":             {&own, mount("/sys/fs/cgroup", "cgroup", "ro"), false},
		"recursively read-only": {&own, mount("/sys/fs/cgroup", "cgroup", "rro"), false},
		"made writable again":   {&own, mount("/sys/fs/cgroup", "cgroup", "ro", "rw"), true},
		"elsewhere":             {&own, mount("/cgroup", "cgroup"), false},
		"of another source":     {&own, mount("/sys/fs/cgroup", "none"), false},
		"the runtime's group":   {nil, mount("/sys/fs/cgroup", "cgroup"), false},
		"another's group":       {ptr(joinNS("cgroup", "/c")), mount("/sys/fs/cgroup", "cgroup"), false},
		"no view of groups":     {&own, specs.Mount{Destination: "/sys/fs/cgroup", Type: "tmpfs", Source: "cgroup"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := translate(t, func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, tc.mount)
				s.Linux.Namespaces = []specs.LinuxNamespace{newNS("mount")}
				if tc.namespace != nil {
					s.Linux.Namespaces = append(s.Linux.Namespaces, *tc.namespace)
				}
			})
			assert.Equal(t, tc.want, p.DelegatesCgroup())
		})
	}
}

func TestHooks(t *testing.T) {
	good := &specs.Hooks{
		//lint:ignore SA1019 deprecated, but in use
		Prestart:        []specs.Hook{{Path: "/a"}},
		CreateRuntime:   []specs.Hook{{Path: "/b", Args: []string{"b", "c"}, Env: []string{"A=b"}, Timeout: ptr(1)}},
		CreateContainer: []specs.Hook{{Path: "/e"}},
		StartContainer:  []specs.Hook{{Path: "/f"}},
		Poststart:       []specs.Hook{{Path: "/c"}},
		Poststop:        []specs.Hook{{Path: "/d"}},
	}
	p := translate(t, func(s *specs.Spec) { s.Hooks = good })
	assert.Same(t, good, p.Hooks)

	hook := func(h specs.Hook) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/a"}, h}} }
	}
	testRefused(t, []refusedCase{
		{"no path", hook(specs.Hook{}), `hooks.poststop[1].path: "" is not an absolute path`, nil},
		{"relative", hook(specs.Hook{Path: "a"}), `hooks.poststop[1].path: "a" is not an absolute path`, nil},
		{"timeout", hook(specs.Hook{Path: "/a", Timeout: ptr(0)}), `hooks.poststop[1].timeout: 0 is not more than 0 seconds`, nil},
		{"NUL in path", hook(specs.Hook{Path: "/\x00"}), `hooks.poststop[1].path: "/\x00" has a NUL byte`, nil},
		{"NUL in args", hook(specs.Hook{Path: "/a", Args: []string{"\x00"}}), `hooks.poststop[1].args[0]: "\x00" has a NUL byte`, nil},
		{"NUL in env", hook(specs.Hook{Path: "/a", Env: []string{"\x00"}}), `hooks.poststop[1].env[0]: "\x00" has a NUL byte`, nil},
	})
}

func TestSeccompFilter(t *testing.T) {
	assert.Nil(t, translate(t).Filter)
	empty := translate(t, func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} })
	assert.Nil(t, empty.Filter, "no default action and no rules is no filter")

	p := translate(t, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG"}}
	})
	require.NotNil(t, p.Filter)
	assert.NotEmpty(t, p.Filter.Program)
	assert.Equal(t, uint32(2), p.Filter.Flags)

	for path, s := range map[string]specs.LinuxSeccomp{
		"linux.seccomp.defaultAction":      {DefaultAction: "SCMP_ACT_X"},
		"linux.seccomp.syscalls[0].action": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: "X"}}},
	} {
		_, err := Translate(bundleDir, minimal(func(spec *specs.Spec) { spec.Linux.Seccomp = &s }))
		var field *FieldError
		require.ErrorAs(t, err, &field)
		assert.Equal(t, path, field.Path)
		assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func TestSysctlOnHostMapsIDs(t *testing.T) {
	ids := IDMap{GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}, {ContainerID: 5000, HostID: 7, Size: 2}}}
	for name, tt := range map[string]struct{ value, want, err string }{
		"a range":             {"0 7", "100000 100007", ""},
		"everybody":           {"0 2147483647", "100000 100999", ""},
		"of the second range": {"5001\t5001", "8 8", ""},
		"nobody":              {"1 0", "1 0", ""},
		"not mapped":          {"2000 3000", "", `linux.sysctl["net/ipv4/ping_group_range"]: "2000 3000" starts with an id that is not in linux.gidMappings`},
		"one id":              {"0", "", "is not two group ids"},
		"a word":              {"0 all", "", "is not two group ids"},
		"too large":           {"0 4294967296", "", "is not two group ids"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Plan{IDMap: ids, Sysctl: map[string]string{pingGroups: tt.value, "kernel/msgmax": "8100"}}
			got, err := p.SysctlOnHost(pingGroups)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			other, err := p.SysctlOnHost("kernel/msgmax")
			require.NoError(t, err)
			assert.Equal(t, "8100", other)
		})
	}
}

func TestSysctlOnHostIsTheValueWithoutMapping(t *testing.T) {
	p := &Plan{Sysctl: map[string]string{pingGroups: "0 7"}}
	got, err := p.SysctlOnHost(pingGroups)
	require.NoError(t, err)
	assert.Equal(t, "0 7", got)
}
