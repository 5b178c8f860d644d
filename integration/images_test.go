package integration

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/image"
)

var rootfs = []scenario{
	{
		name: "one-static-binary-and-nothing-else", image: image.Scratch, args: []string{"/busybox", "echo", "from scratch"},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "from scratch\n"`, "delete: 0"}, events: ended("0"),
	},
	{
		name: "one-static-binary-with-an-exec", image: image.Scratch, args: []string{"/busybox", "sleep", "1000"},
		run: beside(func(s *script) {
			s.runExec("e", nil, "/busybox", "ls", "/")
		}),
		want: besideLog("exec e: ok", "start e: ok", "exit e: 0", `stdout e: "busybox\ndev\nproc\nrun\nsys\n"`, "delete e: 0"),
	},
	{
		name: "a-user-reopens-its-stdout", args: []string{"sh", "-c", "echo one > /dev/stdout; echo two >> /proc/self/fd/1; echo three > /dev/stderr"},
		spec: []oci.SpecOpts{oci.WithUIDGID(1000, 1000)},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "one\ntwo\n"`, `stderr: "three\n"`, "delete: 0"},
		// containerd's shim makes the pipes root's, as its options say: IoUid 0
		flaw: "gives the pipes to the user only when the client's options say so",
	},
	{
		name: "a-user-reopens-its-terminal", args: []string{"sh", "-c", "echo one > /dev/stdout; echo two > $(tty)"},
		terminal: true, stdin: gated, spec: []oci.SpecOpts{oci.WithUIDGID(1000, 1000)},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "one\r\ntwo\r\n"`, "delete: 0"},
	},
	{
		name: "read-only-root", args: []string{"sh", "-c", "touch /new 2>&1; touch /etc/new 2>&1; echo x > /dev/shm/x && echo shm"},
		spec: []oci.SpecOpts{oci.WithRootFSReadonly()},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			`stdout: "touch: /new: Read-only file system\ntouch: /etc/new: Read-only file system\nshm\n"`, "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "no-execution-from-a-volume", args: []string{"sh", "-c", "cp /bin/busybox /data/sh && /data/sh -c true; echo $?"},
		spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{
			{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "size=8m"}},
		})},
		want: []string{
			"create: ok", "start: ok", "exit: 0", `stdout: "126\n"`,
			`stderr: "sh: /data/sh: Permission denied\n"`, "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "what-is-masked-stays-masked", args: []string{"sh", "-c", "cat /proc/keys | wc -c; echo x > /proc/sys/kernel/hostname"},
		want: []string{
			"create: ok", "start: ok", "exit: 1", `stdout: "0\n"`,
			`stderr: "sh: can't create /proc/sys/kernel/hostname: Read-only file system\n"`, "delete: 1",
		},
		events: ended("1"),
	},
	{
		name: "nothing-of-the-runtime-is-in-sight",
		args: []string{"sh", "-c", "cut -d ' ' -f 5 /proc/self/mountinfo | grep -vE '^/(proc|sys|dev|run)(/|$)'; ls -a /; env | sort; ls /proc/self/fd | wc -l"},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			`stdout: "/\n.\n..\nbin\ndev\netc\nhome\nopt\nproc\nroot\nrun\nsys\ntmp\nusr\nHOME=/root\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/\nSHLVL=1\n4\n"`,
			"delete: 0",
		},
	},
}

// TestRootFilesystems runs what depends on the image and on how it is mounted.
func TestRootFilesystems(t *testing.T) {
	run := func(t *testing.T, w *place, rt harness.Runtime) {
		for _, sc := range rootfs {
			t.Run(sc.name, func(t *testing.T) { sc.test(t, w, rt) })
		}
	}
	newest(t, run)
	t.Run("runc-shim", func(t *testing.T) { run(t, world(t, "2.4"), harness.Reference()) })
}

// TestHostileImageTouchesNothingOutside runs images in which paths that a
// runtime uses are symlinks to paths of the host.
func TestHostileImageTouchesNothingOutside(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, name := range []string{image.Crooked, image.Hostile} {
			t.Run(path.Base(name), func(t *testing.T) { hostileImage(t, w, rt, name) })
		}
	})
}

func hostileImage(t *testing.T, w *place, rt harness.Runtime, name string) {
	before, touched := outside(t)
	volume := t.TempDir()
	file := filepath.Join(volume, "file")
	require.NoError(t, os.WriteFile(file, []byte("volume\n"), 0o644))
	sc := scenario{
		name: "hostile", image: name,
		args: []string{"sh", "-c", "cat /etc/hostname /data/file /file; cat /etc/passwd"},
		spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{
			{Destination: "/data", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}},
			{Destination: "/etc/hostname", Type: "bind", Source: file, Options: []string{"bind", "ro"}},
			{Destination: "/file", Type: "bind", Source: file, Options: []string{"bind", "ro"}},
			{Destination: "/run/below", Type: "tmpfs", Source: "tmpfs"},
		})},
		run: func(s *script) {
			s.create()
			if name == image.Hostile && s.last != nil {
				s.log = nil // to refuse such an image is as good as to contain it
				return
			}
			s.start()
			s.wait()
			s.out()
			s.delete()
			if name == image.Hostile {
				s.log = nil
			}
			assert.NotContains(t, s.stdio.Out()+s.stdio.Err(), canary)
		},
	}
	if name == image.Crooked {
		sc.want = []string{"create: ok", "start: ok", "exit: 0", `stdout: "volume\nvolume\nvolume\ninside:x:0:\n"`, "delete: 0"}
	}
	sc.test(t, w, rt)
	assert.Equal(t, before, tree(t), "the outside")
	assert.Empty(t, touched(), "events in the outside")
}

const canary = "this is outside"

// outside makes what the hostile image's links lead to. It returns its tree,
// and a function that tells what was opened, read or changed since.
func outside(t *testing.T) (map[string]fs.FileMode, func() []string) {
	require.NoError(t, os.Mkdir(harness.Outside(), 0o755))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(harness.Outside())) })
	dirs := []string{harness.Outside()}
	for _, d := range []string{"dev", "proc", "sys", "run", "data"} {
		dir := filepath.Join(harness.Outside(), d)
		require.NoError(t, os.Mkdir(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(canary), 0o644))
		dirs = append(dirs, dir)
	}
	for _, f := range []string{"passwd", "group", "hostname", "file"} {
		require.NoError(t, os.WriteFile(filepath.Join(harness.Outside(), f), []byte(canary+":x:0:0:::\n"), 0o644))
	}
	before := tree(t)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	for _, d := range dirs {
		_, err := unix.InotifyAddWatch(fd, d, unix.IN_ALL_EVENTS)
		require.NoError(t, err)
	}
	return before, func() []string { return notified(t, fd) }
}

// notified are the names of the files in pending inotify events, without those
// that tree causes: directories that are opened and read.
func notified(t *testing.T, fd int) []string {
	buf := make([]byte, 1<<16)
	n, err := unix.Read(fd, buf)
	if err == unix.EAGAIN {
		return nil
	}
	require.NoError(t, err)
	var names []string
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; {
		mask, size := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint32(buf[12:])
		name := unix.ByteSliceToString(buf[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size])
		if mask&unix.IN_ISDIR == 0 {
			names = append(names, name)
		}
		buf = buf[unix.SizeofInotifyEvent+size:]
	}
	return names
}

func tree(t *testing.T) map[string]fs.FileMode {
	all := map[string]fs.FileMode{}
	require.NoError(t, filepath.WalkDir(harness.Outside(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[path] = info.Mode()
		}
		return err
	}))
	return all
}
