package rootfs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// tree makes files below a new directory: "dir/", "file=content", "link->target".
func tree(t testing.TB, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		name, target, isLink := strings.Cut(e, "->")
		name, content, _ := strings.Cut(name, "=")
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case isLink:
			require.NoError(t, os.Symlink(target, path))
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(path, 0o755))
		default:
			require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
	return root
}

func TestBindsFilesAndDirectoriesWithOptions(t *testing.T) {
	volume := tree(t, "file=volume", "sub/inner=deep", "link->file")
	for name, test := range map[string]struct {
		mount oci.Mount
		image []string
		want  string // of the mount's line in mountinfo
		read  string // "path=content"
	}{
		"directory, missing in the image": {
			mount: bindMount(volume, "/new/vol"), want: "/new/vol rw,relatime - ", read: "/new/vol/sub/inner=deep",
		},
		"file, missing in the image": {
			mount: bindMount(volume+"/file", "/etc/app/config"), want: "/etc/app/config rw,relatime - ", read: "/etc/app/config=volume",
		},
		"file over a file": {
			mount: bindMount(volume+"/file", "/etc/hosts"), image: []string{"etc/hosts=image"}, read: "/etc/hosts=volume",
		},
		"file over a dangling link": {
			mount: bindMount(volume+"/file", "/etc/resolv.conf"), image: []string{"etc/resolv.conf->../run/resolve/stub.conf"},
			want: "/run/resolve/stub.conf ", read: "/etc/resolv.conf=volume",
		},
		"source is a symlink": {
			mount: bindMount(volume+"/link", "/file"), read: "/file=volume",
		},
		"read-only and without set-id": {
			mount: oci.Mount{Kind: oci.MountBind, Source: volume, Destination: "/vol", Set: ro | nosuid}, want: "/vol ro,nosuid,relatime - ",
		},
		"noatime": {
			mount: oci.Mount{Kind: oci.MountBind, Source: volume, Destination: "/vol", Set: unix.MOUNT_ATTR_NOATIME}, want: "/vol rw,noatime - ",
		},
		"through a link in the image": {
			mount: bindMount(volume, "/data/vol"), image: []string{"data->/srv/data/", "srv/data/"}, want: "/srv/data/vol rw", read: "/srv/data/vol/file=volume",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t, allNew)
			build(t, c, planOf(tree(t, test.image...), procMount(), test.mount))
			assert.Contains(t, strings.Join(c.mounts(), "\n"), test.want)
			if path, content, ok := strings.Cut(test.read, "="); ok {
				assert.Equal(t, content, c.read(path))
			}
		})
	}
}

func TestRecursiveOptionsReachMountsBelow(t *testing.T) {
	volume := tree(t, "sub/")
	mountHere(t, volume+"/sub", unix.MS_NOSUID)
	for name, test := range map[string]struct {
		mount      oci.Mount
		top, below string
	}{
		"ro is for the mount itself": {
			mount: oci.Mount{Recursive: true, Set: ro}, top: "/vol ro,relatime", below: "/vol/sub rw,nosuid,relatime",
		},
		"rro is for all": {
			mount: oci.Mount{Recursive: true, RecSet: ro}, top: "/vol ro,relatime", below: "/vol/sub ro,nosuid,relatime",
		},
		"rsuid clears": {
			mount: oci.Mount{Recursive: true, RecClear: nosuid}, top: "/vol rw,relatime", below: "/vol/sub rw,relatime",
		},
		"bind takes no mounts below": {mount: oci.Mount{}, top: "/vol rw,relatime"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t, allNew)
			m := test.mount
			m.Kind, m.Source, m.Destination = oci.MountBind, volume, "/vol"
			build(t, c, planOf(t.TempDir(), procMount(), m))
			assert.Contains(t, c.mount("/vol"), test.top+" - ")
			assert.Contains(t, c.mount("/vol/sub"), test.below)
			assert.Equal(t, test.below != "", c.mount("/vol/sub") != "")
		})
	}
}

// mountHere mounts a tmpfs in the test's mount namespace.
func mountHere(t testing.TB, dir string, flags uintptr) {
	t.Helper()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", flags, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

func TestLaterMountsCoverEarlierOnes(t *testing.T) {
	volume := tree(t, "file=volume", "run/inner=deep")
	c := startContainer(t, allNew)
	build(t, c, planOf(t.TempDir(), procMount(),
		bindMount(volume, "/a"), tmpfsMount("/a/run"), bindMount(volume+"/file", "/a/run/file"), tmpfsMount("/b"), bindMount(volume, "/b/x/y")))
	assert.Equal(t, "volume", c.read("/a/run/file"))
	assert.Contains(t, c.stat("/a/run/inner"), "no such file")
	assert.Equal(t, "deep", c.read("/b/x/y/run/inner"))
}

func TestTmpfsHasTheModeOfWhatItCovers(t *testing.T) {
	image := tree(t, "tmp/", "data/", "plain/")
	require.NoError(t, unix.Chmod(image+"/tmp", 0o1777))
	require.NoError(t, unix.Chmod(image+"/data", 0o2750))
	c := startContainer(t, allNew)
	build(t, c, planOf(image, procMount(), tmpfsMount("/tmp"), tmpfsMount("/data"), tmpfsMount("/plain", "mode", "700"), tmpfsMount("/new")))
	for path, want := range map[string]string{"/tmp": "41777 0:0 tmp", "/data": "42750 0:0 data", "/plain": "40700 0:0 plain", "/new": "41777 0:0 new"} {
		assert.Equal(t, want, c.stat(path))
	}
}

func TestTmpCopyUpKeepsEverything(t *testing.T) {
	image := tree(t, "data/file=content", "data/sub/exe=#!", "data/link->file", "data/absolute->/etc/passwd")
	require.NoError(t, unix.Chown(image+"/data/file", 7, 8))
	require.NoError(t, unix.Chmod(image+"/data/sub/exe", 0o4755))
	require.NoError(t, unix.Chmod(image+"/data", 0o1770))
	require.NoError(t, unix.Mkfifo(image+"/data/fifo", 0o600))
	require.NoError(t, unix.Mknod(image+"/data/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	require.NoError(t, unix.Setxattr(image+"/data/file", "security.capability", []byte(capability), 0))
	m := tmpfsMount("/data", "size", "1m")
	m.TmpCopyUp, m.Set = true, ro

	c := startContainer(t, allNew)
	root := build(t, c, planOf(image, procMount(), m))
	assert.Contains(t, c.mount("/data"), "/ /data ro,relatime - tmpfs")
	assert.Equal(t, "41770 0:0 data", c.stat("/data"))
	assert.Equal(t, []string{
		"120777 0:0 absolute -> /etc/passwd", "10600 0:0 fifo", "100644 7:8 file", "120777 0:0 link -> file", "20600 0:0 1:3 null", "40755 0:0 sub",
	}, c.list("/data"))
	assert.Equal(t, "104755 0:0 exe", c.stat("/data/sub/exe"))
	assert.Equal(t, "content", c.read("/data/link"))
	f, err := root.Open("/data/file")
	require.NoError(t, err)
	defer f.Close()
	got := make([]byte, 64)
	n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", got)
	require.NoError(t, err)
	assert.Equal(t, capability, string(got[:n]))
}

func TestTmpCopyUpOfNothingIsAnEmptyTmpfs(t *testing.T) {
	m := tmpfsMount("/new")
	m.TmpCopyUp = true
	c := startContainer(t, allNew)
	build(t, c, planOf(t.TempDir(), procMount(), m))
	assert.Contains(t, c.mount("/new"), "tmpfs")
}

func TestProcHasOnlyTheOptionsOfTheSpec(t *testing.T) {
	c := startContainer(t, allNew)
	p := procMount()
	p.Set, p.Data = nodev, kv("hidepid", "2")
	build(t, c, planOf(t.TempDir(), p))
	assert.Regexp(t, `^/ /proc rw,nodev,relatime - proc proc rw,hidepid=(2|invisible)$`, c.mount("/proc"))
}

func TestRemountsWhatIsThere(t *testing.T) {
	c := startContainer(t, allNew)
	build(t, c, planOf(t.TempDir(), procMount(), tmpfsMount("/run", "size", "64k"),
		oci.Mount{Kind: oci.MountRemount, Destination: "/run", Set: nosuid | ro, Clear: 0, Data: kv("size", "128k")}))
	assert.Equal(t, "/ /run ro,nosuid,relatime - tmpfs tmpfs rw,size=128k", c.mount("/run"))
}

func TestMountsAFileSystemThatNamesAPathOfTheHost(t *testing.T) {
	layers := tree(t, "lower/file=lower", "upper/", "work/")
	c := startContainer(t, allNew)
	build(t, c, planOf(t.TempDir(), procMount(), oci.Mount{
		Kind: oci.MountFS, Type: "overlay", Source: "overlay", Destination: "/merged", Set: nodev,
		Data: kv("lowerdir", layers+"/lower", "upperdir", layers+"/upper", "workdir", layers+"/work"),
	}))
	assert.Equal(t, "lower", c.read("/merged/file"))
	require.NoError(t, c.write("/merged/file", "upper"))
	data, err := os.ReadFile(layers + "/upper/file")
	require.NoError(t, err)
	assert.Equal(t, "upper", string(data))
}

func TestMasksAndProtectsPaths(t *testing.T) {
	c := startContainer(t, allNew)
	p := planOf(tree(t, "secret/key=1", "file=2", "link->secret", "frozen/file=3"), procMount(), devMount(), sysMount())
	p.MaskedPaths = []string{"/link", "/file", "/proc/keys", "/sys/kernel", "/nosuch", "/file/below", "/sys/fs"}
	p.ReadonlyPaths = []string{"/frozen", "/proc/sys", "/nosuch"}
	build(t, c, p)
	assert.Equal(t, []string{""}, c.list("/secret"))
	require.ErrorIs(t, c.write("/secret/new", "x"), unix.EROFS)
	assert.Empty(t, c.read("/file"))
	assert.Empty(t, c.read("/proc/keys"))
	assert.Equal(t, []string{""}, c.list("/sys/kernel"))
	require.ErrorIs(t, c.write("/frozen/file", "x"), unix.EROFS)
	assert.Equal(t, "3", c.read("/frozen/file"))
	require.ErrorIs(t, c.write("/proc/sys/kernel/hostname", "x"), unix.EROFS)
	require.NoError(t, c.write("/new", "x"))

	masks := slices.DeleteFunc(c.mounts(), func(l string) bool { return !strings.Contains(l, " - tmpfs tmpfs ro") })
	assert.Equal(t, []string{
		"/ /secret ro,relatime - tmpfs tmpfs ro", "/ /sys/kernel ro,relatime - tmpfs tmpfs ro", "/ /sys/fs ro,relatime - tmpfs tmpfs ro",
	}, masks)
}

func TestMasksFilesWithTheHostsNullWhereTheContainerHasNone(t *testing.T) {
	c := startContainer(t, allNew)
	p := planOf(tree(t, "one=1", "two=2"), procMount())
	p.Devices = nil
	p.MaskedPaths = []string{"/one", "/two"}
	build(t, c, p)
	assert.Empty(t, c.read("/one"))
	assert.Empty(t, c.read("/two"))
	assert.Contains(t, c.stat("/one"), " 1:3 one")
}

func TestRefusesAFalseNull(t *testing.T) {
	c := startContainer(t, allNew)
	p := planOf(tree(t, "one=1", "dev/null=harmful"), procMount())
	p.MaskedPaths = []string{"/one"}
	_, err := Build(context.Background(), c.Target, p, nil)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, `linux.maskedPaths[0]: "/one": /dev/null of the container is not the null device`)
}

func TestSaysWhatIsWrongWithAMount(t *testing.T) {
	image := tree(t, "file=x", "dir/", "proclink->/proc")
	for name, test := range map[string]struct {
		mount oci.Mount
		is    error
		text  string
	}{
		"missing source":       {bindMount("/nosuch/volume", "/vol"), unix.ENOENT, `mounts[1].source: open "/nosuch/volume": no such file or directory`},
		"file on directory":    {bindMount(image+"/file", "/dir"), unix.ENOTDIR, `mounts[1] ("/dir"): a file can not be mounted on a directory`},
		"directory on file":    {bindMount(image+"/dir", "/file"), unix.ENOTDIR, `mounts[1] ("/file"): a file can not be mounted on a directory, nor`},
		"below a file":         {tmpfsMount("/file/x"), unix.ENOTDIR, `mounts[1] ("/file/x"): create mountpoint: not a directory`},
		"unknown file system":  {oci.Mount{Kind: oci.MountFS, Type: "nosuchfs", Destination: "/x"}, unix.ENODEV, `file system type "nosuchfs" is not known to the kernel`},
		"unknown option":       {tmpfsMount("/x", "nosuch", "1"), unix.EINVAL, `mounts[1] ("/x"): option "nosuch=1": tmpfs: Unknown parameter 'nosuch'`},
		"bad value":            {tmpfsMount("/x", "size", "many"), unix.EINVAL, `option "size=many": tmpfs: Bad value for 'size'`},
		"long value":           {tmpfsMount("/x", "size", strings.Repeat("1", 256)), unix.EINVAL, "longer than the 255 bytes"},
		"remount of nothing":   {oci.Mount{Kind: oci.MountRemount, Destination: "/nosuch", Set: ro}, unix.ENOENT, `mounts[1] ("/nosuch"): remount`},
		"remount of a dir":     {oci.Mount{Kind: oci.MountRemount, Destination: "/dir", Set: ro}, unix.EINVAL, `mounts[1] ("/dir"): remount`},
		"the root":             {tmpfsMount("/"), errdefs.ErrInvalidArgument, `mounts[1] ("/"): a mount can not cover the root`},
		"the root, by a way":   {tmpfsMount("/dir/.."), errdefs.ErrInvalidArgument, "a mount can not cover the root"},
		"tmpfs on proc":        {tmpfsMount("/proc"), errdefs.ErrInvalidArgument, `"/proc" cannot be mounted because it is not of type proc`},
		"tmpfs in proc":        {tmpfsMount("/proc/1/attr"), errdefs.ErrInvalidArgument, "cannot be mounted because it is inside /proc"},
		"tmpfs in proc's link": {tmpfsMount("/proclink/bus"), errdefs.ErrInvalidArgument, `"/proc/bus" cannot be mounted because it is inside /proc`},
		"not a proc on proc":   {bindMount(image, "/proc"), errdefs.ErrInvalidArgument, "is not of type proc"},
		"proc on a link":       {oci.Mount{Kind: oci.MountProc, Type: "proc", Destination: "/proclink"}, unix.ELOOP, `filesystem "proc" must be mounted on ordinary directory`},
		"a magic link":         {tmpfsMount("/lost/../proc/1/cwd/x"), unix.ELOOP, "create mountpoint"},
		"a proc option":        {oci.Mount{Kind: oci.MountProc, Type: "proc", Destination: "/p", Data: kv("nosuch", "1")}, unix.EINVAL, `option "nosuch=1": proc: Unknown parameter`},
	} {
		t.Run(name, func(t *testing.T) {
			before := hostMounts(t)
			c := startContainer(t, allNew)
			_, err := Build(context.Background(), c.Target, planOf(image, procMount(), test.mount), nil)
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, test.text)
			assert.Equal(t, before, hostMounts(t))
		})
	}
}

func TestRefusesToCoverTheRoot(t *testing.T) {
	for name, spoil := range map[string]func(p *oci.Plan){
		"linux.maskedPaths[0]":   func(p *oci.Plan) { p.MaskedPaths = []string{"/"} },
		"linux.readonlyPaths[0]": func(p *oci.Plan) { p.ReadonlyPaths = []string{"/"} },
	} {
		c := startContainer(t, allNew)
		p := planOf(t.TempDir())
		spoil(p)
		_, err := Build(context.Background(), c.Target, p, nil)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, name+`: "/": `)
	}
}

func TestAllowsTheFilesOfProcThatLxcfsCovers(t *testing.T) {
	c := startContainer(t, allNew)
	build(t, c, planOf(t.TempDir(), procMount(), bindMount(tree(t, "up=1 2\n")+"/up", "/proc/uptime")))
	assert.Equal(t, "1 2\n", c.read("/proc/uptime"))
}

func TestSaysThatTheRootIsMissing(t *testing.T) {
	c := startContainer(t, allNew)
	_, err := Build(context.Background(), c.Target, planOf("/nosuch/rootfs"), nil)
	require.ErrorIs(t, err, unix.ENOENT)
	require.ErrorContains(t, err, `root.path: open "/nosuch/rootfs"`)
}
