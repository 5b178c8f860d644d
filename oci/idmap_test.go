package oci

import (
	"strconv"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

func idRange(container, host, size uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
}

// userNS gives a spec a user namespace, and the pid namespace that it needs.
func userNS(m IDMap) func(*specs.Spec) {
	return func(s *specs.Spec) {
		namespaces(newNS("mount"), newNS("pid"), newNS("user"))(s)
		s.Linux.UIDMappings, s.Linux.GIDMappings = m.UIDs, m.GIDs
	}
}

func usual() IDMap { return IDMap{UIDs: idRange(0, 100000, 65536), GIDs: idRange(0, 200000, 65536)} }

func TestIDMapBecomesLinesOfTheConfiguration(t *testing.T) {
	p := translate(t, userNS(usual()))
	assert.Equal(t, usual(), p.IDMap)
	assert.Contains(t, p.Config, lxcconf.Set("lxc.idmap", "u 0 100000 65536"))
	assert.Contains(t, p.Config, lxcconf.Set("lxc.idmap", "g 0 200000 65536"))
	assert.Contains(t, p.Config, lxcconf.Set("lxc.namespace.clone", "mnt pid user"))
}

func TestHostIDs(t *testing.T) {
	m := IDMap{UIDs: append(idRange(0, 100000, 10), idRange(1000, 1000, 1)...), GIDs: idRange(0, 0, 1)}
	for _, c := range []struct {
		id, want uint32
		ok       bool
	}{{0, 100000, true}, {9, 100009, true}, {10, 0, false}, {1000, 1000, true}, {1001, 0, false}, {1<<32 - 1, 0, false}} {
		got, ok := m.HostUID(c.id)
		assert.Equal(t, c.want, got, c.id)
		assert.Equal(t, c.ok, ok, c.id)
	}
	_, ok := m.HostGID(1)
	assert.False(t, ok)
}

func TestIDMapsThatAreRefused(t *testing.T) {
	uids := func(list []specs.LinuxIDMapping) func(*specs.Spec) {
		return userNS(IDMap{UIDs: list, GIDs: idRange(0, 100000, 1)})
	}
	many := func(n, gap uint32) (list []specs.LinuxIDMapping) {
		for i := range n {
			list = append(list, specs.LinuxIDMapping{ContainerID: i * gap, HostID: 1000000 + i*gap, Size: 1})
		}
		return list
	}
	with := func(change func(*specs.Spec)) func(*specs.Spec) {
		return func(s *specs.Spec) { userNS(usual())(s); change(s) }
	}
	testRefused(t, []refusedCase{
		{"none", userNS(IDMap{}), "linux.uidMappings: is required for a new user namespace", nil},
		{"no gids", userNS(IDMap{UIDs: idRange(0, 1, 1)}), "linux.gidMappings: is required for a new user namespace", nil},
		{"no namespace", func(s *specs.Spec) { s.Linux.GIDMappings = idRange(0, 1, 1) }, `linux.gidMappings: needs a "user" namespace in linux.namespaces`, nil},
		{"size 0", uids(idRange(0, 100000, 0)), "linux.uidMappings[0].size: 0 is no range", nil},
		{"beyond the last id", uids(idRange(4294967290, 0, 6)), "linux.uidMappings[0].containerID: 4294967290 is beyond the last id with a size of 6", nil},
		{"beyond the last id of the host", uids(idRange(0, 4294967290, 6)), "linux.uidMappings[0].hostID: 4294967290 is beyond the last id with a size of 6", nil},
		{"overlap", uids(append(idRange(0, 100, 10), idRange(9, 200, 1)...)), "linux.uidMappings[1].containerID: 9 overlaps with linux.uidMappings[0]", nil},
		{"overlap on the host", uids(append(idRange(0, 100, 10), idRange(50, 91, 10)...)), "linux.uidMappings[1].hostID: 91 overlaps with linux.uidMappings[0]", nil},
		{"341 ranges", uids(many(341, 2)), "linux.uidMappings: has 341 ranges: the kernel takes 340", nil},
		{"more than a page", uids(many(330, 1000)), "linux.uidMappings: takes 5497 bytes: the kernel takes fewer than 4096", nil},
		{"no root", uids(idRange(1, 100000, 10)), "linux.uidMappings: maps no id 0: LXC, and what is done in the container before the process is executed, need root", nil},
		{"uid of the process", with(func(s *specs.Spec) { s.Process.User.UID = 65536 }), "process.user.uid: 65536 is not mapped by linux.uidMappings", nil},
		{"gid of the process", with(func(s *specs.Spec) { s.Process.User.GID = 70000 }), "process.user.gid: 70000 is not mapped by linux.gidMappings", nil},
		{"group of the process", with(func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{1, 70000} }), "process.user.additionalGids[1]: 70000 is not mapped by linux.gidMappings", nil},
		{
			"owner of a device", with(func(s *specs.Spec) {
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, GID: ptr(uint32(70000))}}
			}), `linux.devices: "/dev/x": gid: 70000 is not mapped by linux.gidMappings`, nil,
		},
		{
			"procfs of the host", with(func(s *specs.Spec) {
				namespaces(newNS("mount"), newNS("user"))(s)
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"})
			}),
			`mounts[0].type: "proc" needs a "pid" namespace with the "user" namespace: the kernel has no new procfs of the host's pids for it; bind /proc instead`, nil,
		},
	})
}

func TestPIDsOfTheHostInAUserNamespace(t *testing.T) {
	p := translate(t, userNS(usual()), namespaces(newNS("mount"), newNS("user")))
	config, err := lxcconf.Marshal(p.Config)
	require.NoError(t, err)
	assert.Contains(t, string(config), "lxc.mount.auto =\nlxc.mount.entry = /proc proc none rbind 0 0\n")

	own := translate(t, userNS(usual()), namespaces(newNS("mount"), newNS("user"), newNS("pid")))
	config, err = lxcconf.Marshal(own.Config)
	require.NoError(t, err)
	assert.NotContains(t, string(config), "lxc.mount")
}

// The namespace that is joined knows its mapping; the spec may say it too.
func TestIDMapOfAJoinedUserNamespace(t *testing.T) {
	join := namespaces(newNS("mount"), joinNS("user", "/proc/7/ns/user"))
	p := translate(t, join, func(s *specs.Spec) { s.Process.User.UID = 70000 })
	require.True(t, p.IDMap.IsZero())
	require.EqualError(t, p.SetIDMap(usual()), "process.user.uid: 70000 is not mapped by linux.uidMappings")

	p = translate(t, join)
	require.NoError(t, p.SetIDMap(usual()))
	assert.Contains(t, p.Config, lxcconf.Set("lxc.idmap", "u 0 100000 65536"))

	p = translate(t, join, func(s *specs.Spec) { s.Linux.UIDMappings, s.Linux.GIDMappings = usual().UIDs, usual().GIDs })
	require.NoError(t, p.SetIDMap(usual()))
	other := usual()
	other.GIDs = idRange(0, 5, 5)
	require.EqualError(t, p.SetIDMap(other),
		`linux.uidMappings, linux.gidMappings: "u 0 100000 65536, g 0 200000 65536" are not those of the user namespace that is joined: u 0 100000 65536, g 0 5 5`)
}

func TestIDMapOfAMount(t *testing.T) {
	own := bind("ridmap")
	own.UIDMappings, own.GIDMappings = idRange(0, 5, 1), idRange(0, 6, 1)
	bare := bind()
	bare.UIDMappings, bare.GIDMappings = own.UIDMappings, own.GIDMappings
	p := translate(t, userNS(usual()), mounts(bind("idmap"), own, bare, bind()))
	require.Len(t, p.Mounts, 4)
	assert.Equal(t, &MountIDMap{}, p.Mounts[0].IDMap, "the container's")
	m := IDMap{UIDs: own.UIDMappings, GIDs: own.GIDMappings}
	assert.Equal(t, &MountIDMap{Map: m, Recursive: true}, p.Mounts[1].IDMap)
	assert.Equal(t, &MountIDMap{Map: m}, p.Mounts[2].IDMap)
	assert.Nil(t, p.Mounts[3].IDMap)

	p = translate(t, mounts(own))
	assert.Equal(t, m, p.Mounts[0].IDMap.Map, "needs no user namespace")
}

func TestExecInAUserNamespaceMayOnlyHaveItsIDs(t *testing.T) {
	p := translate(t, userNS(usual()))
	require.NoError(t, p.CheckProcessIDs(&specs.Process{User: specs.User{UID: 65535}}))
	require.EqualError(t, p.CheckProcessIDs(&specs.Process{User: specs.User{UID: 65536}}), "process.user.uid: 65536 is not mapped by linux.uidMappings")
	require.NoError(t, translate(t).CheckProcessIDs(&specs.Process{User: specs.User{UID: 65536}}))
}

func TestRlimitsCanBeLeftToTheCaller(t *testing.T) {
	process := &specs.Process{Args: []string{"x"}, Cwd: "/", Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}}
	inside, _, err := ProcessOps(process, ProcessOptions{})
	require.NoError(t, err)
	outside, _, err := ProcessOps(process, ProcessOptions{LimitsOutside: true})
	require.NoError(t, err)
	assert.Len(t, outside, len(inside)-1)
	assert.Equal(t, []Rlimit{{Resource: 7, Soft: 1, Hard: 2}}, Rlimits(process))
}

func TestAUserNamespaceOfItsOwnIsForContainersThatShareNothing(t *testing.T) {
	all := []specs.LinuxNamespace{newNS("pid"), newNS("network"), newNS("ipc"), newNS("uts"), newNS("mount"), newNS("cgroup")}
	why, ok := OwnUserNamespace(minimal(namespaces(all...)))
	require.True(t, ok, why)
	_, ok = OwnUserNamespace(minimal(namespaces(all[:5]...)))
	require.True(t, ok, "the cgroup namespace may be the host's")
	for i, want := range []string{"pid", "network", "ipc", "uts", "mount"} {
		left := append(append([]specs.LinuxNamespace{}, all[:i]...), all[i+1:]...)
		why, ok := OwnUserNamespace(minimal(namespaces(left...)))
		assert.False(t, ok)
		assert.Equal(t, "it shares the host's "+want+" namespace", why)
		why, ok = OwnUserNamespace(minimal(namespaces(append(left, joinNS(specs.LinuxNamespaceType(want), "/x"))...)))
		assert.False(t, ok)
		assert.Equal(t, "it joins a "+want+" namespace", why)
	}
	why, ok = OwnUserNamespace(minimal(namespaces(append(all, newNS("user"))...)))
	assert.False(t, ok)
	assert.Equal(t, "its spec has a user namespace", why)
	_, ok = OwnUserNamespace(&specs.Spec{})
	assert.False(t, ok)
}

func TestWithUserNamespaceIDMapsTheVolumes(t *testing.T) {
	mapped := bind("idmap")
	mapped.Source = "/mapped"
	device := bind("rw")
	device.Source = "/dev/null"
	spec := minimal(namespaces(newNS("mount"), newNS("pid")), mounts(bind("ro"), bind("rbind"), tmpfs("ro"), device, mapped, bind("remount")))
	before := strconv.Quote(spec.Mounts[0].Options[0])
	s := WithUserNamespace(spec, usual(), func(m specs.Mount) bool { return m.Source == "/dev/null" })
	var options [][]string
	for _, m := range s.Mounts {
		options = append(options, m.Options)
	}
	assert.Equal(t, [][]string{
		{"bind", "ro", "idmap"}, {"bind", "rbind", "ridmap"}, {"ro"}, {"bind", "rw"}, {"bind", "idmap"}, {"bind", "remount"},
	}, options)
	assert.Len(t, spec.Linux.Namespaces, 2, "the spec is left alone")
	assert.Equal(t, before, strconv.Quote(spec.Mounts[0].Options[0]))
	p, err := Translate(bundleDir, s)
	require.NoError(t, err)
	assert.Equal(t, usual(), p.IDMap)
}
