package rootfs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

const (
	ro, nosuid, nodev, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOEXEC
	strictatime, anyAtime     = unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME
)

func kv(pairs ...string) (options []oci.FSOption) {
	for i := 0; i < len(pairs); i += 2 {
		options = append(options, oci.FSOption{Key: pairs[i], Value: pairs[i+1]})
	}
	return options
}

func procMount() oci.Mount {
	return oci.Mount{Kind: oci.MountProc, Destination: "/proc", Type: "proc", Source: "proc", Set: nosuid | noexec | nodev}
}

func devMount() oci.Mount {
	return oci.Mount{Kind: oci.MountFS, Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Set: nosuid | strictatime, Clear: anyAtime, Data: kv("mode", "755", "size", "65536k")}
}

func ptsMount() oci.Mount {
	return oci.Mount{
		Kind: oci.MountFS, Destination: "/dev/pts", Type: "devpts", Source: "devpts", Set: nosuid | noexec,
		Data: append(kv("ptmxmode", "0666", "mode", "0620", "gid", "5"), oci.FSOption{Key: "newinstance", Flag: true}),
	}
}

func sysMount() oci.Mount {
	return oci.Mount{Kind: oci.MountFS, Destination: "/sys", Type: "sysfs", Source: "sysfs", Set: nosuid | noexec | nodev | ro}
}

func tmpfsMount(dest string, options ...string) oci.Mount {
	return oci.Mount{Kind: oci.MountFS, Destination: dest, Type: "tmpfs", Source: "tmpfs", Data: kv(options...)}
}

func bindMount(source, dest string, propagation ...uint64) oci.Mount {
	return oci.Mount{Kind: oci.MountBind, Source: source, Destination: dest, Recursive: true, Propagation: propagation}
}

// What containerd protects by default.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// defaultPlan is what containerd's default spec is as a plan.
func defaultPlan(root string) *oci.Plan {
	p := planOf(root, procMount(), devMount(), ptsMount(),
		oci.Mount{Kind: oci.MountFS, Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Set: nosuid | noexec | nodev, Data: kv("mode", "1777", "size", "65536k")},
		oci.Mount{Kind: oci.MountFS, Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Set: nosuid | noexec | nodev},
		sysMount(),
		oci.Mount{Kind: oci.MountFS, Destination: "/run", Type: "tmpfs", Source: "tmpfs", Set: nosuid | strictatime, Clear: anyAtime, Data: kv("mode", "755", "size", "65536k")},
	)
	p.MaskedPaths, p.ReadonlyPaths = slices.Clone(maskedPaths), slices.Clone(readonlyPaths)
	return p
}

// planOf is a plan with some mounts, and the devices of every OCI container.
func planOf(root string, mounts ...oci.Mount) *oci.Plan {
	p := &oci.Plan{
		Root: oci.Root{Path: root}, Mounts: mounts, Process: &specs.Process{Cwd: "/"},
		Namespaces: map[specs.LinuxNamespaceType]oci.Namespace{specs.UTSNamespace: {}},
	}
	for i := range p.Mounts {
		p.Mounts[i].Index = i
	}
	for _, d := range []struct {
		name         string
		major, minor int64
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		p.Devices = append(p.Devices, oci.Device{Path: "/dev/" + d.name, Type: 'c', Major: d.major, Minor: d.minor, Mode: 0o666})
	}
	return p
}

func build(t testing.TB, c *container, p *oci.Plan) *Root {
	t.Helper()
	root, err := Build(context.Background(), c.Target, p, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return root
}

// hostMounts is the mount table of the test's own namespace.
func hostMounts(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return string(data)
}

func TestBuildsTheDefaultSpecOnAScratchImage(t *testing.T) {
	before := hostMounts(t)
	c := startContainer(t, allNew)
	image := t.TempDir()
	build(t, c, defaultPlan(image))

	mounts := c.mounts()
	assert.Regexp(t, "^"+image+" / rw,relatime - ", mounts[0])
	want := []string{
		"/ /proc rw,nosuid,nodev,noexec,relatime - proc proc rw",
		"/ /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
		"/ /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666",
		"/ /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k",
		"/ /dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw",
		"/ /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs rw",
		"/ /run rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
	}
	assert.Equal(t, want, mounts[1:1+len(want)])
	assert.NotContains(t, strings.Join(mounts, "\n"), "helper", "nothing of the base may be left")
	assert.Equal(t, []string{
		"120777 0:0 fd -> /proc/self/fd", "20666 0:0 1:7 full", "41777 0:0 mqueue", "20666 0:0 1:3 null", "120777 0:0 ptmx -> pts/ptmx",
		"40755 0:0 pts", "20666 0:0 1:8 random", "41777 0:0 shm", "120777 0:0 stderr -> /proc/self/fd/2", "120777 0:0 stdin -> /proc/self/fd/0",
		"120777 0:0 stdout -> /proc/self/fd/1", "20666 0:0 5:0 tty", "20666 0:0 1:9 urandom", "20666 0:0 1:5 zero",
	}, slices.DeleteFunc(c.list("/dev"), func(l string) bool { return strings.Contains(l, "core") }))
	assert.Equal(t, before, hostMounts(t), "the host's mounts stay as they are")
}

func TestTheWaitingProcessIsMovedToTheNewRoot(t *testing.T) {
	c := startContainer(t, allNew)
	image := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(image, "hello"), []byte("image"), 0o644))
	build(t, c, defaultPlan(image))
	assert.Equal(t, "image", c.read("hello"), "the working directory")
	assert.Equal(t, "image", c.read("/hello"), "the root")
	assert.Equal(t, "image", c.read("/../hello"), "nothing is above it")
	assert.Contains(t, c.stat("/helper"), "no such file")
	assert.Contains(t, c.stat("/root"), "no such file")
}

func TestRefusesAProcessInTheHostsMountNamespace(t *testing.T) {
	before := hostMounts(t)
	_, err := Build(context.Background(), Target{PID: os.Getpid(), PIDFD: pidfdOf(t, os.Getpid())}, defaultPlan(t.TempDir()), nil)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.Equal(t, before, hostMounts(t))
}

func TestSaysThatTheInitHasEnded(t *testing.T) {
	c := startContainer(t, allNew)
	pidfd := pidfdOf(t, c.PID)
	target := Target{PID: c.PID, PIDFD: pidfd}
	c.stop()
	_, err := Build(context.Background(), target, planOf(t.TempDir()), nil)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestEndsWithTheContext(t *testing.T) {
	c := startContainer(t, allNew)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Build(ctx, c.Target, defaultPlan(t.TempDir()), nil)
	require.ErrorIs(t, err, context.Canceled)
}

func TestReadonlyRootIsReadonlyButItsMountsAreNot(t *testing.T) {
	c := startContainer(t, allNew)
	p := defaultPlan(t.TempDir())
	p.Root.Readonly = true
	p.Process.Cwd = "/made/before/it/is/sealed"
	build(t, c, p)
	require.ErrorIs(t, c.write("/file", "x"), unix.EROFS)
	require.NoError(t, c.write("/run/file", "x"))
	assert.Equal(t, "40755 0:0 sealed", c.stat(p.Process.Cwd))
}

func TestReadonlyTmpfsAndDevAreFilledFirst(t *testing.T) {
	c := startContainer(t, allNew)
	dev := devMount()
	dev.Set |= ro
	run := tmpfsMount("/run")
	run.RecSet = ro
	build(t, c, planOf(t.TempDir(), procMount(), dev, run, tmpfsMount("/run/inner")))
	assert.Contains(t, c.mount("/dev"), "/ /dev ro,nosuid")
	assert.Contains(t, c.mount("/run"), "/ /run ro")
	require.ErrorIs(t, c.write("/dev/file", "x"), unix.EROFS)
	require.NoError(t, c.write("/run/inner/file", "x"))
	assert.Equal(t, "20666 0:0 1:3 null", c.stat("/dev/null"))
}

func TestMakesTheWorkingDirectory(t *testing.T) {
	c := startContainer(t, allNew)
	p := planOf(t.TempDir(), procMount())
	p.Process.Cwd = "/a/b/c"
	build(t, c, p)
	assert.Equal(t, "40755 0:0 c", c.stat("/a/b/c"))
}

func TestSaysThatTheWorkingDirectoryIsAFile(t *testing.T) {
	c := startContainer(t, allNew)
	image := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(image, "file"), nil, 0o644))
	p := planOf(image)
	p.Process.Cwd = "/file"
	_, err := Build(context.Background(), c.Target, p, nil)
	require.ErrorIs(t, err, unix.ENOTDIR)
	require.ErrorContains(t, err, `process.cwd: mkdir "/file": not a directory`)
}

func TestSetsNamesAndSysctlsOfTheNamespaces(t *testing.T) {
	c := startContainer(t, allNew)
	p := defaultPlan(t.TempDir())
	p.Hostname, p.Domainname = "cage", "example.org"
	p.Sysctl = map[string]string{"net/ipv4/ip_forward": "1", "kernel/shm_rmid_forced": "1", "fs/mqueue/msg_max": "17"}
	host := func(path string) string {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(data)
	}
	watched := []string{
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/fs/mqueue/msg_max",
		"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname",
	}
	var before, after []string
	for _, path := range watched {
		before = append(before, host(path))
	}
	build(t, c, p)
	for i, want := range []string{"1\n", "1\n", "17\n", "cage\n", "example.org\n"} {
		assert.Equal(t, want, c.read(watched[i]), watched[i])
	}
	for _, path := range watched {
		after = append(after, host(path))
	}
	assert.Equal(t, before, after, "the host's values stay")
	require.ErrorIs(t, c.write("/proc/sys/net/ipv4/ip_forward", "0"), unix.EROFS)
}

// A network namespace that is given by path may be the host's.
func TestSysctlsOfTheHostsNetworkAreRefused(t *testing.T) {
	c := startContainer(t, allNew&^unix.CLONE_NEWNET)
	p := defaultPlan(t.TempDir())
	p.Sysctl = map[string]string{"kernel/shm_rmid_forced": "1"}
	_, err := Build(t.Context(), c.Target, p, nil)
	require.NoError(t, err, "one of another namespace")

	c = startContainer(t, allNew&^unix.CLONE_NEWNET)
	p.Sysctl["net/core/somaxconn"] = "1000"
	before, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	require.NoError(t, err)
	_, err = Build(t.Context(), c.Target, p, nil)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.EqualError(t, err, `linux.sysctl["net/core/somaxconn"]: the network namespace is the host's: invalid argument`)
	after, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

func TestSaysWhichSysctlFails(t *testing.T) {
	for name, sysctl := range map[string]struct {
		key, value string
		errno      unix.Errno
	}{
		"unknown":   {"net/ipv4/nosuch", "1", unix.ENOENT},
		"bad value": {"net/ipv4/ip_forward", "x", unix.EINVAL},
		"outside":   {"net/../../self/comm", "x", unix.EXDEV},
		"absolute":  {"/proc/self/comm", "x", unix.EXDEV},
	} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t, allNew)
			p := planOf(t.TempDir())
			p.Sysctl = map[string]string{sysctl.key: sysctl.value}
			_, err := Build(context.Background(), c.Target, p, nil)
			require.ErrorIs(t, err, sysctl.errno)
			require.ErrorContains(t, err, `linux.sysctl["`+sysctl.key+`"]: `)
		})
	}
}

func pidfdOf(t testing.TB, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func BenchmarkBuildDefault(b *testing.B) {
	image := b.TempDir()
	for _, dir := range []string{"proc", "dev", "sys", "run"} {
		require.NoError(b, os.Mkdir(filepath.Join(image, dir), 0o755))
	}
	for b.Loop() {
		b.StopTimer()
		c := startContainer(b, allNew)
		b.StartTimer()
		r, err := Build(context.Background(), c.Target, defaultPlan(image), nil)
		b.StopTimer()
		require.NoError(b, err)
		require.NoError(b, r.Close())
		c.stop()
		b.StartTimer()
	}
}
