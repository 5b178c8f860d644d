package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

var userIDs = oci.IDMap{
	UIDs: []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}},
	GIDs: []specs.LinuxIDMapping{{HostID: 200000, Size: 65536}},
}

// startUserContainer is startContainer with a user namespace.
func startUserContainer(t *testing.T) *container {
	t.Helper()
	c := startContainerWith(t, &syscall.SysProcAttr{
		Cloneflags:                 allNew | unix.CLONE_NEWUSER,
		UidMappings:                []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: 200000, Size: 65536}},
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	})
	c.IDs = userIDs
	return c
}

// giveToRoot gives a base directory to the root of a user namespace.
func giveToRoot(t testing.TB, base string, attr *syscall.SysProcAttr) {
	t.Helper()
	uid, gid := attr.UidMappings[0].HostID, attr.GidMappings[0].HostID
	require.NoError(t, os.Chmod(filepath.Dir(base), 0o755))
	for _, name := range []string{"", "root", "proc", "dev", "helper"} {
		require.NoError(t, os.Lchown(filepath.Join(base, name), uid, gid))
	}
}

// open fills in what Build needs of the container's user namespace.
func (c *container) open(p *oci.Plan) {
	c.t.Helper()
	p.IDMap, c.Contexts, c.Users = c.IDs, map[int]*os.File{}, map[int]*os.File{}
	for i, fsType := range Contexts(p) {
		r := c.call(request{Op: "fsopen", Path: fsType})
		require.Empty(c.t, r.Err)
		number, err := strconv.Atoi(r.Data)
		require.NoError(c.t, err)
		fd, err := unix.PidfdGetfd(int(c.PIDFD.Fd()), number, 0)
		require.NoError(c.t, err)
		c.Contexts[i] = os.NewFile(uintptr(fd), fsType)
		c.t.Cleanup(func() { c.Contexts[i].Close() })
	}
	for i, m := range p.Mounts {
		if m.IDMap == nil {
			continue
		}
		users, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.PID))
		require.NoError(c.t, err)
		c.Users[i] = users
		c.t.Cleanup(func() { users.Close() })
	}
}

func TestEverythingInAUserNamespaceBelongsToItsRoot(t *testing.T) {
	root, volume := t.TempDir(), tree(t, "file=volume")
	require.NoError(t, os.Lchown(root, 100000, 200000)) // as a snapshotter does
	require.NoError(t, os.Chown(filepath.Join(volume, "file"), 5, 6))
	c := startUserContainer(t)
	p := defaultPlan(root)
	mapped := bindMount(volume, "/mapped")
	mapped.IDMap = &oci.MountIDMap{}
	p.Mounts = append(p.Mounts, bindMount(volume, "/plain"), mapped, tmpfsMount("/of-a-user", "uid", "7", "gid", "8", "mode", "700"))
	p.Devices = append(p.Devices, oci.Device{Path: "/dev/fuse", Type: 'c', Major: 10, Minor: 229, Mode: 0o640, UID: 7, GID: 8})
	p.Sysctl = map[string]string{"kernel/shmmax": "12345", "net/ipv4/ip_unprivileged_port_start": "80", "fs/mqueue/msg_max": "11"}
	c.open(p)
	build(t, c, p)
	for path, want := range map[string]string{
		"/dev":             "40755 0:0 dev",
		"/dev/shm":         "41777 0:0 shm",
		"/dev/pts":         "40755 0:0 pts",
		"/dev/mqueue":      "41777 0:0 mqueue",
		"/dev/ptmx":        "120777 0:0 ptmx -> pts/ptmx",
		"/dev/null":        "20666 0:0 1:3 null",
		"/dev/fuse":        "20640 7:8 10:229 fuse",
		"/plain/file":      "100644 65534:65534 file",
		"/mapped/file":     "100644 5:6 file",
		"/of-a-user":       "40700 7:8 of-a-user",
		"/proc/timer_list": "20666 0:0 1:3 timer_list",
	} {
		assert.Equal(t, want, c.stat(path), path)
	}
	assert.Equal(t, "12345\n", c.read("/proc/sys/kernel/shmmax"))
	assert.Equal(t, "80\n", c.read("/proc/sys/net/ipv4/ip_unprivileged_port_start"))
	assert.Equal(t, "11\n", c.read("/proc/sys/fs/mqueue/msg_max"))
	require.NoError(t, c.write("/dev/shm/file", "x"))
	require.NoError(t, c.write("/dev/null", "x"))
	require.NoError(t, c.write("/mapped/new", "x"))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(volume, "new"), &st))
	assert.Equal(t, [2]uint32{0, 0}, [2]uint32{st.Uid, st.Gid}, "on disk")
}

func TestOptionsWithIDsThatAreNotMapped(t *testing.T) {
	m := tmpfsMount("/x", "uid", "70000")
	_, err := hostOptions(&m, userIDs)
	require.ErrorContains(t, err, `option "uid=70000": the id is not mapped`)
	m = tmpfsMount("/x", "size", "1m", "gid", "5", "uid", "junk")
	got, err := hostOptions(&m, userIDs)
	require.NoError(t, err)
	assert.Equal(t, kv("size", "1m", "gid", "200005", "uid", "junk"), got)
}

func TestOverlaysOfSnapshotters(t *testing.T) {
	o, err := parseOverlay([]string{"index=off", "workdir=/s/6/work", "upperdir=/s/6/fs", "lowerdir=/s/5/fs:/s/1/fs", "ro", "userxattr"})
	require.NoError(t, err)
	assert.Equal(t, overlay{
		lower: []string{"/s/5/fs", "/s/1/fs"}, upper: "/s/6/fs", work: "/s/6/work",
		flags: unix.MS_RDONLY, data: []string{"index=off", "userxattr"},
	}, o)
	for name, c := range map[string]struct {
		options []string
		want    string
	}{
		"no layers":         {[]string{"ro"}, "overlay without lowerdir"},
		"an escape":         {[]string{`lowerdir=/a\:b`}, "data layers and escapes are not supported"},
		"a data layer":      {[]string{"lowerdir=/a::/b"}, "data layers and escapes are not supported"},
		"two directories":   {[]string{"lowerdir=/a", "upperdir=/s/fs", "workdir=/t/work"}, "upperdir and workdir are not in one directory"},
		"one option more":   {[]string{"lowerdir=/a", "upperdir=/s/fs,lowerdir=x", "workdir=/s/work"}, "can not be written to the options of a mount"},
		"the same in work":  {[]string{"lowerdir=/a", "upperdir=/s/fs", "workdir=/s/work,x"}, "can not be written to the options of a mount"},
		"a view is allowed": {[]string{"lowerdir=/a:/b"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseOverlay(c.options)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestFileSystemThatCannotBeIDMappedIsNamed(t *testing.T) {
	users, err := os.Open("/proc/self/ns/user")
	require.NoError(t, err)
	defer users.Close()
	p := planOf(t.TempDir(), bindMount("/proc", "/x"))
	p.Mounts[0].IDMap = &oci.MountIDMap{}
	err = CheckIDMaps(p, map[int]*os.File{0: users})
	var cannot *IDMapError
	require.ErrorAs(t, err, &cannot)
	assert.Equal(t, "proc", cannot.FS)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, `mounts[0].source: "/proc" is on a file system of type proc`)
}

func TestWhatIsTheKernelsHasNoOwners(t *testing.T) {
	for source, want := range map[string]bool{"/proc": true, "/sys": true, "/dev/null": true, "/dev": true, t.TempDir(): false, "/nowhere": false} {
		assert.Equal(t, want, Ownerless(specs.Mount{Source: source}), source)
	}
}
