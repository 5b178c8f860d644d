package rootfs

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

func cgroupMount() oci.Mount {
	return oci.Mount{Kind: oci.MountCgroup, Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Set: ro | nosuid | noexec | nodev}
}

// unifiedHost makes /sys/fs/cgroup of the test's mount namespace cgroup2
// only, as most hosts have it.
func unifiedHost(t testing.TB) {
	t.Helper()
	if isUnified(t) {
		return
	}
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(hostMounts(t)), mountinfo.FSTypeFilter("cgroup2"))
	require.NoError(t, err)
	if len(mounts) == 0 {
		t.Skip("this host has no cgroup2")
	}
	require.NoError(t, unix.Mount(mounts[0].Mountpoint, hostCgroups, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(hostCgroups, unix.MNT_DETACH)) })
}

func isUnified(t testing.TB) bool {
	t.Helper()
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(hostCgroups, &fs))
	return fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// group makes a cgroup below a directory of the host's hierarchy.
func group(t testing.TB, hierarchy string) string {
	t.Helper()
	dir, err := os.MkdirTemp(hierarchy, "nexcage-rootfs-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.Remove(dir)) })
	return dir
}

func TestShowsCgroup2AsTheNamespaceSeesIt(t *testing.T) {
	unifiedHost(t)
	for name, test := range map[string]struct {
		namespaces uintptr
		own        string // where the container finds its group
	}{
		"own namespace":    {allNew, "/sys/fs/cgroup"},
		"host's namespace": {allNew &^ unix.CLONE_NEWCGROUP, "/sys/fs/cgroup/GROUP"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := group(t, hostCgroups)
			f, err := os.Open(dir)
			require.NoError(t, err)
			defer f.Close()
			c := startContainerWith(t, &syscall.SysProcAttr{Cloneflags: test.namespaces, UseCgroupFD: true, CgroupFD: int(f.Fd())})
			build(t, c, planOf(t.TempDir(), procMount(), sysMount(), cgroupMount()))
			assert.Regexp(t, `^/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 `, c.mount("/sys/fs/cgroup"))
			own := strings.Replace(test.own, "GROUP", filepath.Base(dir), 1)
			assert.Equal(t, "1\n", c.read(own+"/cgroup.procs"))
			require.ErrorIs(t, c.write(own+"/cgroup.procs", "1"), unix.EROFS)
		})
	}
}

func TestLeavesTheOptionsOfTheHostsCgroup2Alone(t *testing.T) {
	unifiedHost(t)
	before := hostMounts(t)
	c := startContainer(t, allNew&^unix.CLONE_NEWCGROUP)
	build(t, c, planOf(t.TempDir(), procMount(), sysMount(), cgroupMount()))
	assert.Equal(t, before, hostMounts(t))
}

func TestShowsCgroupV1WithEachHierarchy(t *testing.T) {
	if isUnified(t) {
		t.Skip("this host has no cgroup v1")
	}
	hosts, err := mountinfo.GetMountsFromReader(strings.NewReader(hostMounts(t)), mountinfo.FSTypeFilter("cgroup"))
	require.NoError(t, err)
	require.NotEmpty(t, hosts)
	for name, namespaces := range map[string]uintptr{"own namespace": allNew, "host's namespace": allNew &^ unix.CLONE_NEWCGROUP} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t, namespaces)
			build(t, c, planOf(t.TempDir(), procMount(), sysMount(), cgroupMount()))
			assert.Equal(t, "/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755", c.mount("/sys/fs/cgroup"))
			for _, h := range hosts {
				line := c.mount("/sys/fs/cgroup/" + filepath.Base(h.Mountpoint))
				assert.Regexp(t, `^\S+ \S+ ro,nosuid,nodev,noexec,relatime - cgroup \S+ `+regexp.QuoteMeta(h.VFSOptions), line)
			}
			require.ErrorIs(t, c.write("/sys/fs/cgroup/file", "x"), unix.EROFS)
		})
	}
}

func TestShowsTheContainersOwnGroupOfCgroupV1(t *testing.T) {
	if isUnified(t) {
		t.Skip("this host has no cgroup v1")
	}
	dir := group(t, hostCgroups+"/pids")
	c := startContainer(t, allNew&^unix.CLONE_NEWCGROUP)
	require.NoError(t, os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(c.PID)), 0))
	build(t, c, planOf(t.TempDir(), procMount(), sysMount(), cgroupMount()))
	assert.Regexp(t, "^/"+filepath.Base(dir)+" /sys/fs/cgroup/pids ro,", c.mount("/sys/fs/cgroup/pids"))
	assert.Equal(t, "1\n", c.read("/sys/fs/cgroup/pids/cgroup.procs"))
	c.stop()
}

func TestParsesTheGroupsOfAProcess(t *testing.T) {
	assert.Equal(t, map[string]string{"cpu": "/a:b", "cpuacct": "/a:b", "name=systemd": "/c"},
		parseGroups([]byte("3:cpu,cpuacct:/a:b\n2:name=systemd:/c\n0::/unified\nbad\n")))
}

func TestFindsTheDirectoryOfAGroup(t *testing.T) {
	for name, test := range map[string]struct{ root, group, want string }{
		"root of the hierarchy": {"/", "/pods/a", "/m/pods/a"},
		"nested":                {"/pods", "/pods/a", "/m/a"},
		"the same":              {"/pods", "/pods", "/m"},
		"not below":             {"/pods", "/other", "/m"},
		"above":                 {"/pods", "/", "/m"},
		"outside of the view":   {"/", "/../a", "/m/a"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, groupPath(&mountinfo.Info{Root: test.root, Mountpoint: "/m"}, test.group))
		})
	}
}

func TestLinksControllersThatShareAHierarchy(t *testing.T) {
	tmpfs, err := superblock{fsType: "tmpfs"}.mount(0)
	require.NoError(t, err)
	defer tmpfs.close()
	require.NoError(t, hierarchy{name: "cpu,cpuacct"}.makeDir(tmpfs))
	for _, link := range []string{"cpu", "cpuacct"} {
		target, err := readlink(tmpfs, link)
		require.NoError(t, err)
		assert.Equal(t, "cpu,cpuacct", target)
	}
}
