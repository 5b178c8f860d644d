package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// overlayOf is a snapshot with empty layers.
func overlayOf(t *testing.T, layers int) (*Snapshot, string) {
	t.Helper()
	snapshots := filepath.Join(t.TempDir(), "snapshots")
	var lower []string
	for i := range layers {
		lower = append(lower, filepath.Join(snapshots, string(rune('1'+i)), "fs"))
	}
	upper := filepath.Join(snapshots, "9", "fs")
	for _, dir := range append(lower, upper) {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(snapshots), "metadata.db"), nil, 0o600))
	s, err := Parse([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"workdir=" + filepath.Join(snapshots, "9", "work"), "upperdir=" + upper, "lowerdir=" + strings.Join(lower, ":"), "index=off", "volatile",
	}}})
	require.NoError(t, err)
	return s, upper
}

func TestParseRefusesWhatTellsNoLayers(t *testing.T) {
	for name, mounts := range map[string][]mount.Mount{
		"nothing":    nil,
		"bind":       {{Type: "bind", Source: "/x", Options: []string{"rbind", "rw"}}},
		"two":        {{Type: "overlay"}, {Type: "overlay"}},
		"read-only":  {{Type: "overlay", Options: []string{"lowerdir=/a:/b"}}},
		"no layer":   {{Type: "overlay", Options: []string{"upperdir=/a", "workdir=/b"}}},
		"data layer": {{Type: "overlay", Options: []string{"upperdir=/a", "workdir=/b", "lowerdir=/c::/d"}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(mounts)
			assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
		})
	}
}

// What is parsed makes a view that has no directory to write to.
func FuzzParse(f *testing.F) {
	f.Add("lowerdir=/a:/b", "upperdir=/c", "workdir=/d")
	f.Add("lowerdir=", "upperdir=", "ro")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		s, err := Parse([]mount.Mount{{Type: "overlay", Options: []string{a, b, c}}})
		if err != nil {
			assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
			return
		}
		require.Len(t, s.view(), 1)
		options := s.view()[0].Options
		assert.Contains(t, options, "ro")
		for _, o := range options {
			assert.False(t, strings.HasPrefix(o, "upperdir=") || strings.HasPrefix(o, "workdir=") || o == "rw", o)
		}
	})
}

func TestTheViewHasTheLayersAlone(t *testing.T) {
	s, _ := overlayOf(t, 2)
	assert.Equal(t, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + strings.Join(s.Layers(), ":"), "index=off"}}}, s.view())
	s, _ = overlayOf(t, 1)
	assert.Equal(t, []mount.Mount{{Type: "bind", Source: s.Layers()[0], Options: []string{"ro", "rbind"}}}, s.view())
}

func TestKeyIsThatOfTheSameDirectoriesOnly(t *testing.T) {
	s, _ := overlayOf(t, 2)
	key := func() string {
		k, err := s.Key()
		require.NoError(t, err)
		return k
	}
	first := key()
	assert.Len(t, first, 32)
	assert.Equal(t, first, key())
	dir := s.Layers()[0]
	require.NoError(t, os.Rename(dir, dir+".old")) // keeps the inode from being used again
	require.NoError(t, os.Mkdir(dir, 0o755))
	assert.NotEqual(t, first, key(), "another directory of that name")
	s.layers = s.layers[:1]
	assert.NotEqual(t, first, key(), "fewer layers")
	require.NoError(t, os.Remove(dir))
	_, err := s.Key()
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestWritten(t *testing.T) {
	s, upper := overlayOf(t, 1)
	written, err := s.Written()
	require.NoError(t, err)
	assert.False(t, written)
	require.NoError(t, os.WriteFile(filepath.Join(upper, "x"), nil, 0o600))
	written, err = s.Written()
	require.NoError(t, err)
	assert.True(t, written)
}

func TestStateOfASnapshot(t *testing.T) {
	s, upper := overlayOf(t, 1)
	id, err := s.ID()
	require.NoError(t, err)
	state := func() State {
		st, err := id.State()
		require.NoError(t, err)
		return st
	}
	assert.Equal(t, Present, state())
	require.NoError(t, os.WriteFile(filepath.Join(upper, "x"), nil, 0o600))
	assert.Equal(t, Present, state(), "what is written to it changes nothing")
	require.NoError(t, os.Rename(filepath.Dir(upper), filepath.Dir(upper)+".old"))
	assert.Equal(t, Gone, state())
	require.NoError(t, os.MkdirAll(upper, 0o755))
	assert.Equal(t, Replaced, state())
	snapshotter := filepath.Dir(filepath.Dir(filepath.Dir(upper)))
	require.NoError(t, os.RemoveAll(filepath.Dir(upper)))
	require.NoError(t, os.Rename(filepath.Join(snapshotter, "metadata.db"), filepath.Join(snapshotter, "old")))
	assert.Equal(t, Unknown, state(), "there is no snapshotter")
	require.NoError(t, os.RemoveAll(snapshotter))
	assert.Equal(t, Unknown, state(), "its file system is not mounted")
}

// conf is what Proxmox takes for the configuration of a backup.
var conf = []File{{Path: "etc/vzdump/pct.conf", Content: []byte("ours\n")}, {Path: "etc/vzdump/pct.fw"}}

func TestAddedAreTheDirectoriesThatTheImageLacks(t *testing.T) {
	root := t.TempDir()
	added, err := Added(root, conf)
	require.NoError(t, err)
	assert.Equal(t, []string{"etc", "etc/vzdump"}, added)
	require.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	added, err = Added(root, conf)
	require.NoError(t, err)
	assert.Equal(t, []string{"etc/vzdump"}, added)
	require.NoError(t, os.Symlink("/etc", filepath.Join(root, "etc", "vzdump")))
	_, err = Added(root, conf)
	require.ErrorIs(t, err, errdefs.ErrNotImplemented)
	assert.ErrorContains(t, err, "/etc/vzdump of the image is no directory")
}

// proxmoxTar are the options with which Proxmox unpacks a stream.
var proxmoxTar = []string{
	"xpf", "-", "--totals", "--one-file-system", "-p", "--sparse", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=user.*",
	"--xattrs-include=security.capability", "--warning=no-file-ignored", "--warning=no-xattr-write", "--skip-old-files", "--anchored", "--exclude", "./dev/*",
}

// Everything that an image can have arrives where Proxmox's tar unpacks it, and
// an image's own configuration of a backup does not.
func TestProxmoxUnpacksTheStreamAsItWas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("owners and devices are root's to make")
	}
	root, out := t.TempDir(), t.TempDir()
	made := func(err error) { t.Helper(); require.NoError(t, err) }
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"etc", "etc/vzdump", "dev", "bin", "var/empty", "tmp"} {
		made(os.MkdirAll(at(dir), 0o755))
	}
	made(os.WriteFile(at("etc/vzdump/pct.conf"), []byte("lxc.hook.pre-start: /evil\n"), 0o600))
	made(os.WriteFile(at("etc/owned"), []byte("content"), 0o640))
	made(os.Lchown(at("etc/owned"), 1234, 70000))
	made(os.WriteFile(at("bin/su"), []byte("#!"), 0o755))
	made(os.Chmod(at("bin/su"), 0o755|os.ModeSetuid|os.ModeSetgid))
	made(os.Chmod(at("tmp"), 0o777|os.ModeSticky))
	made(os.Link(at("bin/su"), at("bin/another name, of 100 and more characters "+strings.Repeat("x", 100))))
	made(os.Symlink("../../outside", at("bin/link")))
	made(os.Lchown(at("bin/link"), 7, 8))
	made(unix.Mknod(at("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	made(unix.Mknod(at("var/disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
	made(unix.Mkfifo(at("var/fifo"), 0o620))
	made(os.WriteFile(at("bin/ping"), []byte("x"), 0o755))
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_raw=ep
	made(unix.Lsetxattr(at("bin/ping"), "security.capability", capability, 0))
	made(unix.Lsetxattr(at("bin/ping"), "user.note", []byte("a\nb\x00"), 0))
	made(os.WriteFile(at("name with \n and é"), nil, 0o600))
	made(os.Chtimes(at("etc/owned"), time.Unix(1, 0), time.Unix(1000000000, 123456789)))
	made(os.Chtimes(at("var/empty"), time.Unix(1, 0), time.Unix(5, 0)))

	cmd := exec.Command("tar", append(proxmoxTar, "-C", out)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	require.NoError(t, cmd.Start())
	require.NoError(t, Write(t.Context(), in, root, conf))
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait(), text.String())

	own, err := os.ReadFile(filepath.Join(out, conf[0].Path))
	require.NoError(t, err)
	assert.Equal(t, "ours\n", string(own))
	for _, f := range conf {
		require.NoError(t, os.Remove(filepath.Join(out, f.Path)))
	}
	require.NoError(t, os.Remove(at("etc/vzdump/pct.conf")))
	assert.Equal(t, listing(t, root), listing(t, out))
	assert.Equal(t, inodeOf(t, filepath.Join(out, "bin/su")), inodeOf(t, filepath.Join(out, "bin/another name, of 100 and more characters "+strings.Repeat("x", 100))))
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	return st.Ino
}

// facts are what is to be the same of a file.
type facts struct {
	Mode, UID, GID uint32
	Rdev, Links    uint64
	Modified       unix.Timespec
	Content        string
	Attributes     map[string]string
}

func listing(t *testing.T, root string) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		require.NoError(t, err)
		rel, err := filepath.Rel(root, path)
		require.NoError(t, err)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		f := facts{st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink, st.Mtim, "", map[string]string{}}
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			f.Content = string(data)
		case d.Type()&os.ModeSymlink != 0:
			f.Content, err = os.Readlink(path)
			require.NoError(t, err)
		}
		for _, name := range []string{"security.capability", "user.note"} {
			value := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, name, value); err == nil {
				f.Attributes[name] = string(value[:n])
			}
		}
		if rel == "etc" || rel == "etc/vzdump" {
			f.Modified = unix.Timespec{} // files were removed in both
		}
		all[rel] = f
		return nil
	}))
	return all
}

// A stream that breaks off has no end, and its writer is told.
func TestAStreamThatFailsHasNoEnd(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(strings.Repeat(name, 5000)), 0o600))
	}
	broken := errors.New("broken")
	var got bytes.Buffer
	require.ErrorIs(t, Write(t.Context(), &failing{w: &got, left: 9000, err: broken}, root, conf), broken)
	assert.NotContains(t, got.String(), string(make([]byte, 1024)), "two empty blocks")

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Write(canceled, &got, root, conf), context.Canceled)
}

type failing struct {
	w    io.Writer
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, f.err
	}
	return f.w.Write(p)
}
