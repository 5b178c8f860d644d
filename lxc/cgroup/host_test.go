package cgroup

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func all(*mountinfo.Info) bool { return true }

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:32 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
51 31 0:32 /docker/x /var/lib/x/memory rw,relatime - cgroup cgroup rw,memory
`

func TestHostReadsEachHierarchyOnce(t *testing.T) {
	h, err := readHost(strings.NewReader(hybrid), all)
	require.NoError(t, err)
	assert.False(t, h.unified())
	assert.Equal(t, []hierarchy{
		{mount: "/sys/fs/cgroup/cpu,cpuacct", names: []string{"cpu", "cpuacct"}},
		{mount: "/sys/fs/cgroup/memory", names: []string{"memory"}},
		{mount: "/sys/fs/cgroup/systemd", names: []string{"name=systemd"}},
	}, h.used())
	assert.Len(t, h.all(), 4)
}

func TestHostWithCgroup2Alone(t *testing.T) {
	h, err := readHost(strings.NewReader("41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"), all)
	require.NoError(t, err)
	assert.True(t, h.unified())
	assert.Equal(t, []hierarchy{{mount: "/sys/fs/cgroup", v2: true}}, h.used())
}

func TestHostSkipsWhatIsMountedOver(t *testing.T) {
	h, err := readHost(strings.NewReader(hybrid), func(m *mountinfo.Info) bool { return !strings.HasSuffix(m.Mountpoint, "unified") })
	require.NoError(t, err)
	assert.Nil(t, h.v2)
	_, err = readHost(strings.NewReader(hybrid), func(*mountinfo.Info) bool { return false })
	assert.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestHostSeesItsOwnMounts(t *testing.T) {
	h, err := thisHost()
	require.NoError(t, err)
	for _, v := range h.all() {
		assert.FileExists(t, v.mount+"/cgroup.procs")
	}
}

func TestGroupOfAProcess(t *testing.T) {
	h, err := readHost(strings.NewReader(hybrid), all)
	require.NoError(t, err)
	places, err := h.groupOf(strings.NewReader("3:name=systemd:/\n2:memory:/a:b\n1:cpu,cpuacct:/a\n0::/u\n"))
	require.NoError(t, err)
	var dirs []string
	for _, p := range places {
		dirs = append(dirs, p.dir)
	}
	assert.Equal(t, []string{
		"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory/a:b", "/sys/fs/cgroup/cpu,cpuacct/a", "/sys/fs/cgroup/unified/u",
	}, dirs)
	_, err = h.groupOf(strings.NewReader("nonsense\n"))
	assert.Error(t, err)
	g, err := Of(os.Getpid())
	require.NoError(t, err)
	pids, err := g.Pids()
	require.NoError(t, err)
	assert.Contains(t, pids, os.Getpid())
}
