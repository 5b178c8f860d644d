package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func mounts(list ...specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = list }
}

func bind(options ...string) specs.Mount {
	return specs.Mount{Destination: "/x", Source: "/src", Options: append([]string{"bind"}, options...)}
}

func tmpfs(options ...string) specs.Mount {
	return specs.Mount{Destination: "/x", Type: "tmpfs", Source: "tmpfs", Options: options}
}

func flags(names ...string) []FSOption {
	var out []FSOption
	for _, n := range names {
		out = append(out, FSOption{Key: n, Flag: true})
	}
	return out
}

func TestMounts(t *testing.T) {
	for _, c := range []struct {
		name  string
		mount specs.Mount
		want  Mount
	}{
		{"bind", bind(), Mount{Kind: MountBind, Destination: "/x", Source: "/src"}},
		{
			"rbind, type none", specs.Mount{Destination: "/x", Type: "none", Source: "/src", Options: []string{"rbind"}},
			Mount{Kind: MountBind, Destination: "/x", Source: "/src", Recursive: true},
		},
		{"type bind", specs.Mount{Destination: "/x", Type: "bind", Source: "/src"}, Mount{Kind: MountBind, Destination: "/x", Source: "/src"}},
		{
			"relative source", specs.Mount{Destination: "/x", Source: "vol/../a", Options: []string{"bind"}},
			Mount{Kind: MountBind, Destination: "/x", Source: bundleDir + "/a"},
		},
		{
			"destination is cleaned", specs.Mount{Destination: "/a/../../b//c/.", Source: "/src", Options: []string{"bind"}},
			Mount{Kind: MountBind, Destination: "/b/c", Source: "/src"},
		},
		{"propagation in order", bind("rslave", "shared"), Mount{Kind: MountBind, Destination: "/x", Source: "/src", Propagation: []uint64{unix.MS_SLAVE | unix.MS_REC, unix.MS_SHARED}}},
		{"no-op options", bind("defaults", "async", "loud", "silent", "nomand", "noiversion", "nolazytime"), Mount{Kind: MountBind, Destination: "/x", Source: "/src"}},
		{
			"file system", tmpfs("size=1m", "mode=755,huge=always", "noswap", "", "sync", "lazytime", "nolazytime", "ro"),
			Mount{
				Kind: MountFS, Destination: "/x", Type: "tmpfs", Source: "tmpfs", Set: unix.MOUNT_ATTR_RDONLY,
				Data: append([]FSOption{{Key: "size", Value: "1m"}, {Key: "mode", Value: "755"}, {Key: "huge", Value: "always"}}, flags("noswap", "sync")...),
			},
		},
		{"tmpcopyup", tmpfs("tmpcopyup"), Mount{Kind: MountFS, Destination: "/x", Type: "tmpfs", Source: "tmpfs", TmpCopyUp: true}},
		{
			"overlay with a comma", specs.Mount{Destination: "/x", Type: "overlay", Options: []string{`lowerdir=/a\,b:/c`, "userxattr"}},
			Mount{Kind: MountFS, Destination: "/x", Type: "overlay", Data: []FSOption{{Key: "lowerdir", Value: `/a\,b:/c`}, {Key: "userxattr", Flag: true}}},
		},
		{
			"proc", specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "hidepid=2"}},
			Mount{Kind: MountProc, Destination: "/proc", Type: "proc", Source: "proc", Set: unix.MOUNT_ATTR_NOSUID, Data: []FSOption{{Key: "hidepid", Value: "2"}}},
		},
		{
			"cgroup", specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
			Mount{Kind: MountCgroup, Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Set: unix.MOUNT_ATTR_RDONLY},
		},
		{"cgroup2", specs.Mount{Destination: "/c", Type: "cgroup2"}, Mount{Kind: MountCgroup, Destination: "/c", Type: "cgroup2"}},
		{
			"remount", specs.Mount{Destination: "/x", Options: []string{"remount", "bind", "ro", "async", "size=1m"}},
			Mount{Kind: MountRemount, Destination: "/x", Set: unix.MOUNT_ATTR_RDONLY, Data: []FSOption{{Key: "size", Value: "1m"}, {Key: "async", Flag: true}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := translate(t, mounts(c.mount))
			assert.Equal(t, []Mount{c.want}, p.Mounts)
			assert.Empty(t, p.Warnings)
		})
	}
}

func TestMountAttributes(t *testing.T) {
	const (
		ro, nosuid, noexec   = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NOEXEC
		noatime, strictatime = unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR_STRICTATIME
	)
	for _, c := range []struct {
		name       string
		options    []string
		set, clear uint64
	}{
		{"set", []string{"ro", "nosuid", "nodev", "noexec", "nodiratime", "nosymfollow"}, 0x20008f, 0},
		{"clear", []string{"rw", "suid", "dev", "exec", "diratime", "symfollow"}, 0, 0x20008f},
		{"the last one counts", []string{"ro", "rw", "exec", "noexec"}, noexec, ro},
		{"atime is cleared as a whole", []string{"noatime"}, noatime, atime},
		{"relatime is 0", []string{"nosuid", "relatime"}, nosuid, atime},
		{"strictatime instead of noatime", []string{"noatime", "strictatime"}, strictatime, atime},
		{"atime is the default", []string{"noatime", "atime"}, 0, atime},
		{"nostrictatime is the default", []string{"strictatime", "nostrictatime"}, 0, atime},
		{"norelatime leaves noatime", []string{"noatime", "norelatime"}, noatime, atime},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := translate(t, mounts(bind(c.options...))).Mounts[0]
			assert.Equal(t, []uint64{c.set, c.clear, 0, 0}, []uint64{m.Set, m.Clear, m.RecSet, m.RecClear})
			for i := range c.options {
				c.options[i] = "r" + c.options[i]
			}
			m = translate(t, mounts(bind(c.options...))).Mounts[0]
			assert.Equal(t, []uint64{0, 0, c.set, c.clear}, []uint64{m.Set, m.Clear, m.RecSet, m.RecClear})
			if m.RecSet&atime != 0 {
				assert.Equal(t, uint64(atime), m.RecClear&atime, "mount_setattr(2) wants it so")
			}
		})
	}
}

// What a bind mount shows has attributes of its own: an option about any of them
// is about all.
func TestABindMountDropsAttributesOfItsSource(t *testing.T) {
	const ro, nosuid, nodev, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOEXEC
	for _, c := range []struct {
		name    string
		options []string
		drop    uint64
	}{
		{"no option", nil, 0},
		{"propagation", []string{"rslave"}, 0},
		{"set", []string{"ro"}, nosuid | nodev | noexec},
		{"cleared", []string{"rw"}, nosuid | nodev | noexec},
		{"both", []string{"nosuid", "exec"}, ro | nodev},
		{"access times", []string{"noatime"}, ro | nosuid | nodev | noexec},
		{"of a tree", []string{"rro"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.drop, translate(t, mounts(bind(c.options...))).Mounts[0].Drop)
		})
	}
	assert.Zero(t, translate(t, mounts(bind("remount", "ro"))).Mounts[0].Drop)
	assert.Zero(t, translate(t, mounts(tmpfs("ro"))).Mounts[0].Drop)
}

// Every option of the runtime-spec's table has a meaning of its own: none is
// taken for one of the file system.
func TestEveryMountOptionOfTheSpecIsKnown(t *testing.T) {
	for _, name := range []string{
		"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud", "mand",
		"noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime",
		"nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec",
		"rnoatime", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate",
		"rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared",
		"silent", "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable", "idmap", "ridmap",
	} {
		_, ok := mountOptions[name]
		assert.True(t, ok, name)
	}
	_, ok := mountOptions["rnodev"] // forgotten there, but not by the runtimes
	assert.True(t, ok)
}

func TestMountsThatAreRefused(t *testing.T) {
	one := idRange(0, 100000, 1)
	own := func(m specs.Mount, uids, gids []specs.LinuxIDMapping) func(*specs.Spec) {
		m.UIDMappings, m.GIDMappings = uids, gids
		return mounts(m)
	}
	testRefused(t, []refusedCase{
		{"no destination", mounts(specs.Mount{Type: "tmpfs"}), "mounts[0].destination: is required", nil},
		{"the root", mounts(tmpfs(), specs.Mount{Destination: "/a/..", Type: "tmpfs"}), `mounts[1].destination: "/a/.." is the root file system itself`, nil},
		{"no type", mounts(specs.Mount{Destination: "/x"}), `mounts[0].type: "" is not a file system, and options have no bind, rbind or remount`, nil},
		{"no source", mounts(specs.Mount{Destination: "/x", Options: []string{"rbind"}}), "mounts[0].source: is required for a bind mount", nil},
		{"unknown option of a bind mount", mounts(bind("ro", "uid=0,gid=0")), `mounts[0].options: "uid=0" is not an option that a bind mount can have`, nil},
		{"sync of a bind mount", mounts(bind("sync")), `mounts[0].options: "sync" belongs to the file system: a bind mount can not have it`, nil},
		{"tmpcopyup of a bind mount", mounts(bind("tmpcopyup")), `mounts[0].options: "tmpcopyup" is for tmpfs, not for a bind mount`, nil},
		{"tmpcopyup elsewhere", mounts(specs.Mount{Destination: "/x", Type: "ext4", Options: []string{"tmpcopyup"}}), `mounts[0].options: "tmpcopyup" is for tmpfs, not for "ext4"`, nil},
		{"idmap without a mapping", mounts(bind("ro", "idmap")), `mounts[0].options: "idmap" needs uidMappings and gidMappings, or a user namespace to take them from`, nil},
		{"ridmap without a mapping", mounts(bind("ridmap")), `mounts[0].options: "idmap" needs uidMappings and gidMappings, or a user namespace to take them from`, nil},
		{"idmap of a tmpfs", mounts(tmpfs("idmap")), "mounts[0].options: are for bind mounts: ids are mapped in no other", nil},
		{"mappings of a tmpfs", own(tmpfs(), one, one), "mounts[0].uidMappings: are for bind mounts: ids are mapped in no other", nil},
		{"uids alone", own(bind(), one, nil), "mounts[0].uidMappings: uidMappings and gidMappings need each other", nil},
		{"gids alone", own(bind("idmap"), nil, one), "mounts[0].gidMappings: uidMappings and gidMappings need each other", nil},
		{"overlap", own(bind(), one, append(idRange(0, 0, 5), idRange(4, 10, 1)...)), "mounts[0].gidMappings[1].containerID: 4 overlaps with mounts[0].gidMappings[0]", nil},
		{"NUL in destination", mounts(specs.Mount{Destination: "/\x00"}), `mounts[0].destination: "/\x00" has a NUL byte`, nil},
		{"NUL in source", mounts(specs.Mount{Destination: "/x", Source: "\x00"}), `mounts[0].source: "\x00" has a NUL byte`, nil},
		{"NUL in type", mounts(specs.Mount{Destination: "/x", Type: "\x00"}), `mounts[0].type: "\x00" has a NUL byte`, nil},
		{"NUL in option", mounts(tmpfs("a", "\x00")), `mounts[0].options[1]: "\x00" has a NUL byte`, nil},
	})
}

func TestRelativeDestinationIsBelowTheRootWithAWarning(t *testing.T) {
	p := translate(t, mounts(specs.Mount{Destination: "../a", Type: "tmpfs"}))
	assert.Equal(t, "/a", p.Mounts[0].Destination)
	assert.Equal(t, []string{`mounts[0].destination: "../a" is not absolute, and is taken as relative to /`}, p.Warnings)
}

func TestMountsMayHaveTheSameDestination(t *testing.T) {
	p := translate(t, mounts(tmpfs(), bind(), tmpfs()))
	require.Len(t, p.Mounts, 3)
	assert.Equal(t, 2, p.Mounts[2].Index)
}
