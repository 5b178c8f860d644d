package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// snapshot lists everything below dir with modes, owners, sizes, times.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		_, err = fmt.Fprintln(&all, path, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Mtim, st.Ctim)
		return err
	}))
	return all.String()
}

// outside is a tree that nothing may touch.
func outside(t testing.TB) string {
	return tree(t, "dev/null=sentinel", "dev/pts/", "proc/", "sys/", "etc/passwd=sentinel:x:0:0::/:/bin/sh\n", "etc/hosts=sentinel", "deep/er/file=sentinel")
}

func TestHostileLinksLeadNowhereElse(t *testing.T) {
	volume := tree(t, "file=volume")
	for _, name := range []string{"dev", "dev/pts", "dev/null", "dev/console", "proc", "sys", "run", "etc", "etc/hosts", "vol", "vol/deep", "cwd", "masked", "frozen"} {
		for kind, target := range map[string]string{
			"absolute":          "%s/%s",
			"relative":          "../../../../../../../../../..%s/%s",
			"dotted":            "./x/../y/.././../..%s/%s",
			"dangling":          "/nosuch/one%s/%s",
			"to itself":         "/%[2]s",
			"magic, its root":   "/proc/self/root%s/%s",
			"magic, its cwd":    "/proc/1/cwd%s/%s",
			"magic, descriptor": "/proc/self/fd/3%s/%s",
		} {
			t.Run(name+" is "+kind, func(t *testing.T) {
				sentinel := outside(t)
				before, mounts := snapshot(t, sentinel), hostMounts(t)
				link := fmt.Sprintf(target, sentinel, filepath.Base(name))
				if kind == "to itself" {
					link = "/" + name
				}
				image := tree(t, name+"->"+link)
				p := defaultPlan(image)
				p.Mounts = append(p.Mounts, bindMount(volume+"/file", "/etc/hosts"), bindMount(volume, "/vol/deep/er"), tmpfsMount("/run/below"))
				p.Process.Cwd, p.Process.Terminal = "/cwd/below", true
				p.MaskedPaths = append(p.MaskedPaths, "/masked/deep", "/masked")
				p.ReadonlyPaths = append(p.ReadonlyPaths, "/frozen/deep", "/frozen")
				c := startContainer(t, allNew)
				root, err := Build(context.Background(), c.Target, p, nil)
				if err == nil {
					defer root.Close()
					for _, path := range []string{"/etc/passwd", "/etc/hosts", "/" + name} {
						if f, err := root.Open(path); err == nil {
							assert.NotContains(t, f.Name(), sentinel)
							data := make([]byte, 64)
							n, _ := f.Read(data)
							assert.NotContains(t, string(data[:n]), "sentinel")
							require.NoError(t, f.Close())
						}
					}
					master, slave, err := root.Console(p.Process, true)
					if err == nil {
						require.NoError(t, errors.Join(master.Close(), slave.Close()))
					}
				}
				assert.Equal(t, before, snapshot(t, sentinel), "something outside was touched")
				assert.Equal(t, mounts, hostMounts(t))
			})
		}
	}
}

func TestLinksOfTheImageResolveInTheImage(t *testing.T) {
	for kind, link := range map[string]string{
		"absolute": "/target/dir",
		"relative": "target/dir",
		"above":    "../../../target/dir",
		"chain":    "/chain",
	} {
		t.Run(kind, func(t *testing.T) {
			image := tree(t, "link->"+link, "chain->./other/../third", "third->/target/dir", "other/")
			volume := tree(t, "file=volume")
			c := startContainer(t, allNew)
			build(t, c, planOf(image, procMount(), bindMount(volume, "/link/vol"), bindMount(volume+"/file", "/link/file")))
			assert.Contains(t, c.mount("/target/dir/vol"), " /target/dir/vol ")
			assert.Equal(t, "volume", c.read("/target/dir/file"))
		})
	}
}

func FuzzEnsureStaysBelowTheRoot(f *testing.F) {
	f.Add("/a/b/c", "../../x", true)
	f.Add("/link/../../x", "/link", false)
	f.Add("link/x", "/./..//../y/link", true)
	f.Add("/link/link/link", ".", false)
	f.Fuzz(func(t *testing.T, path, target string, file bool) {
		top := t.TempDir()
		require.NoError(t, os.MkdirAll(top+"/above/root", 0o755))
		if err := os.Symlink(target, top+"/above/root/link"); err != nil {
			t.Skip("not a link: ", err)
		}
		root, err := openat(unix.AT_FDCWD, top+"/above/root", unix.O_PATH|unix.O_DIRECTORY)
		require.NoError(t, err)
		defer root.close()
		h, _, err := ensure(root, path, what{file: file, mode: 0o644})
		if err == nil {
			way, err := readlink(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", h))
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(way+"/", top+"/above/root/"), way)
			h.close()
		}
		assert.Equal(t, 1, count(t, top+"/above"))
		assert.Equal(t, 1, count(t, top))
	})
}

// swapper exchanges a directory and a symlink, as fast as it can.
func swapper(t testing.TB, a, b string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("exchange: %v", err)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

func TestEnsureStaysBelowTheRootWhenItsWayChanges(t *testing.T) {
	for name, test := range map[string]struct{ link, path string }{
		"component becomes an absolute link": {"%s", "/a/x/y"},
		"component becomes a relative link":  {"../../../../../../..%s", "/a/x/y"},
		"with a way back":                    {"%s/deep", "/a/../a/../../x/y"},
		"a file":                             {"%s/deep", "/a/file"},
	} {
		t.Run(name, func(t *testing.T) {
			sentinel := outside(t)
			before := snapshot(t, sentinel)
			image := tree(t, "a/", "b->"+fmt.Sprintf(test.link, sentinel))
			root, err := openat(unix.AT_FDCWD, image, unix.O_PATH|unix.O_DIRECTORY)
			require.NoError(t, err)
			defer root.close()
			stop := swapper(t, image+"/a", image+"/b")
			defer stop()
			var made int
			for range 3000 {
				h, created, err := ensure(root, test.path, what{file: name == "a file", mode: 0o644})
				if err != nil {
					continue // what a race does to the container is its own affair
				}
				h.close()
				if created {
					made++
					_ = os.RemoveAll(image + "/a/x")
					_ = os.RemoveAll(image + "/b/x")
					_ = os.RemoveAll(image + "/x")
					_ = os.Remove(image + "/a/file")
				}
			}
			stop()
			assert.NotZero(t, made)
			assert.Equal(t, before, snapshot(t, sentinel), "something outside was touched")
		})
	}
}

func TestBuildStaysInsideWhenTheImageChanges(t *testing.T) {
	sentinel := outside(t)
	before, mounts := snapshot(t, sentinel), hostMounts(t)
	image := tree(t, "a/", "b->"+sentinel)
	volume := tree(t, "file=volume")
	defer swapper(t, image+"/a", image+"/b")()
	var built int
	for range 60 {
		p := defaultPlan(image)
		p.Mounts = append(p.Mounts, bindMount(volume, "/a/deep/er"), bindMount(volume+"/file", "/a/etc/hosts"), tmpfsMount("/a/dev/pts"))
		p.Devices = append(p.Devices, oci.Device{Path: "/a/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o666, UID: 1})
		p.Process.Cwd = "/a/new"
		p.MaskedPaths = append(p.MaskedPaths, "/a/etc")
		p.ReadonlyPaths = append(p.ReadonlyPaths, "/a/deep")
		c := startContainer(t, allNew)
		root, err := Build(context.Background(), c.Target, p, nil)
		if err == nil {
			built++
			require.NoError(t, root.Close())
		}
		c.stop()
	}
	assert.NotZero(t, built)
	assert.Equal(t, before, snapshot(t, sentinel), "something outside was touched")
	assert.Equal(t, mounts, hostMounts(t))
}
