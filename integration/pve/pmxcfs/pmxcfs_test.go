package pmxcfs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/pmxcfs"
)

func TestMain(m *testing.M) { os.Exit(harness.Enter(m.Run)) }

// mount mounts a file system of node "vm" and returns its directory.
func mount(t *testing.T) (dir string, setQuorum func(bool)) {
	t.Helper()
	dir = t.TempDir()
	var none atomic.Bool
	f, err := pmxcfs.Mount(dir, "vm", func() bool { return !none.Load() }, func(string, string) syscall.Errno { return 0 })
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Unmount()) })
	require.NoError(t, os.Mkdir(filepath.Join(dir, "nodes", "other"), 0o755))
	for _, kind := range []string{"lxc", "qemu-server"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "nodes", "other", kind), 0o755))
	}
	return dir, func(yes bool) { none.Store(!yes) }
}

func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString("arch: amd64\n")
	return errJoin(err, f.Close())
}

func errJoin(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func TestAnIdExistsOnceInTheCluster(t *testing.T) {
	for name, tc := range map[string]struct{ first, second string }{
		"same file":               {"nodes/vm/lxc/100.conf", "nodes/vm/lxc/100.conf"},
		"through the link":        {"nodes/vm/lxc/100.conf", "lxc/100.conf"},
		"a VM of this node":       {"nodes/vm/qemu-server/100.conf", "nodes/vm/lxc/100.conf"},
		"a CT of another node":    {"nodes/other/lxc/100.conf", "nodes/vm/lxc/100.conf"},
		"a VM of another node":    {"nodes/other/qemu-server/100.conf", "nodes/vm/lxc/100.conf"},
		"and the other way round": {"nodes/vm/lxc/100.conf", "nodes/other/qemu-server/100.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := mount(t)
			require.NoError(t, create(filepath.Join(dir, tc.first)))
			assert.ErrorIs(t, create(filepath.Join(dir, tc.second)), unix.EEXIST)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "nodes/vm/lxc/100.tmp"), nil, 0o640))
			if tc.first != "nodes/vm/lxc/100.conf" {
				assert.ErrorIs(t, os.Rename(filepath.Join(dir, "nodes/vm/lxc/100.tmp"), filepath.Join(dir, "nodes/vm/lxc/100.conf")), unix.EEXIST)
			}
			require.NoError(t, os.Remove(filepath.Join(dir, tc.first)))
			assert.NoError(t, create(filepath.Join(dir, tc.second)), "free again")
		})
	}
}

func TestOneOfManyWinsAnId(t *testing.T) {
	dir, _ := mount(t)
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			kind := []string{"nodes/vm/lxc", "nodes/vm/qemu-server", "nodes/other/lxc"}[i%3]
			if create(filepath.Join(dir, kind, "900000.conf")) == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 1, won.Load())
}

func TestVmlistIsExact(t *testing.T) {
	dir, _ := mount(t)
	read := func() map[string]any {
		data, err := os.ReadFile(filepath.Join(dir, ".vmlist"))
		require.NoError(t, err)
		var list map[string]any
		require.NoError(t, json.Unmarshal(data, &list))
		return list
	}
	assert.NotContains(t, read(), "ids")
	require.NoError(t, create(filepath.Join(dir, "lxc/900000.conf")))
	require.NoError(t, create(filepath.Join(dir, "nodes/other/qemu-server/101.conf")))
	require.NoError(t, create(filepath.Join(dir, "lxc/notes.txt")))
	ids := read()["ids"].(map[string]any)
	assert.Len(t, ids, 2)
	assert.Equal(t, "lxc", ids["900000"].(map[string]any)["type"])
	assert.Equal(t, "vm", ids["900000"].(map[string]any)["node"])
	assert.Equal(t, "qemu", ids["101"].(map[string]any)["type"])
	before := read()["version"]
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lxc/900000.conf"), []byte("arch: arm64\n"), 0o640))
	assert.Greater(t, read()["version"], before)
	require.NoError(t, os.Remove(filepath.Join(dir, "lxc/900000.conf")))
	assert.NotContains(t, read()["ids"], "900000")
}

func TestNothingIsWrittenWithoutQuorum(t *testing.T) {
	dir, setQuorum := mount(t)
	conf := filepath.Join(dir, "lxc/100.conf")
	require.NoError(t, create(conf))
	setQuorum(false)
	for name, do := range map[string]func() error{
		"create": func() error { return create(filepath.Join(dir, "lxc/101.conf")) },
		"write":  func() error { return os.WriteFile(conf, []byte("x"), 0o640) },
		"remove": func() error { return os.Remove(conf) },
		"rename": func() error { return os.Rename(conf, filepath.Join(dir, "lxc/102.conf")) },
		"mkdir":  func() error { return os.Mkdir(filepath.Join(dir, "nodes/x"), 0o755) },
	} {
		assert.ErrorIs(t, do(), unix.EACCES, name)
	}
	data, err := os.ReadFile(conf)
	require.NoError(t, err)
	assert.Equal(t, "arch: amd64\n", string(data))
	setQuorum(true)
	assert.NoError(t, os.Remove(conf))
}

func TestRulesOfFiles(t *testing.T) {
	dir, _ := mount(t)
	conf := filepath.Join(dir, "lxc/100.conf")
	require.NoError(t, create(conf))
	assert.ErrorIs(t, os.Link(conf, filepath.Join(dir, "lxc/x")), unix.EPERM)
	assert.ErrorIs(t, os.Symlink("x", filepath.Join(dir, "lxc/x")), unix.EPERM)
	assert.ErrorIs(t, os.Chmod(conf, 0o600), unix.EPERM)
	assert.NoError(t, os.Chmod(conf, 0o640))
	assert.ErrorIs(t, os.WriteFile(conf, make([]byte, 1<<20+1), 0o640), unix.EFBIG)
	require.NoError(t, os.WriteFile(conf, []byte("a: b\n"), 0o640))
	f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintln(f, "c: d")
	require.NoError(t, errJoin(err, f.Close()))
	data, err := os.ReadFile(conf)
	require.NoError(t, err)
	assert.Equal(t, "a: b\nc: d\n", string(data))
	require.NoError(t, os.WriteFile(conf+".tmp", []byte("new"), 0o640))
	require.NoError(t, os.Rename(conf+".tmp", conf), "a rename over the same guest replaces it")
	target, err := os.Readlink(filepath.Join(dir, "local"))
	require.NoError(t, err)
	assert.Equal(t, "nodes/vm", target)
}
