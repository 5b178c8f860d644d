package native

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/lxc/base"
	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

// newHost makes a host whose lxc-start is a shell script, and a container for
// it.
func newHost(t *testing.T, script string) (*Host, Config) {
	t.Helper()
	dir := t.TempDir()
	h := &Host{LXCStart: filepath.Join(dir, "lxc-start"), LXCPath: filepath.Join(dir, "lxc", "ns"), Helper: "/usr/libexec/nexcage/nexcage-init"}
	require.NoError(t, os.WriteFile(h.LXCStart, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	c := Config{Name: "c1", Base: base.Dir(filepath.Join(dir, "state", "base")), Log: filepath.Join(dir, "state", "lxc-start.log")}
	return h, c
}

func TestConfigurationOfAContainer(t *testing.T) {
	h := &Host{LXCPath: "/run/nexcage/lxc/ns", Helper: "/opt/with blank/nexcage-init"}
	c := Config{Name: "c1", Base: "/run/nexcage/ns/c1/base"}
	got, err := lxcconf.Marshal(append(h.lines(c), lxcconf.Set("lxc.uts.name", "box")))
	require.NoError(t, err)
	golden := filepath.Join("testdata", "config")
	if *update {
		require.NoError(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got))
}

func TestStartPreparesWhatLXCNeeds(t *testing.T) {
	h, c := newHost(t, `echo "$@"; cat "$5/$3/config"; env; pwd; exit 3`)
	c.Lines = []lxcconf.Line{lxcconf.Set("lxc.uts.name", "box")}
	t.Setenv("NEXCAGE_SECRET", "x")
	i, err := h.Start(t.Context(), c)
	require.NoError(t, err)
	assert.Positive(t, i.Monitor())
	<-i.Done()

	for path, want := range map[string]os.FileMode{
		filepath.Join(h.LXCPath, "c1"):           os.ModeDir | 0o711,
		filepath.Join(h.LXCPath, "c1", "config"): 0o600,
		string(c.Base):                           os.ModeDir | 0o711,
		filepath.Join(string(c.Base), "proc"):    os.ModeDir | 0o711,
		filepath.Join(string(c.Base), "root"):    os.ModeDir | 0o711,
		filepath.Join(string(c.Base), "dev"):     os.ModeDir | 0o711,
		filepath.Join(string(c.Base), "init"):    0o555,
		c.Log:                                    0o600,
	} {
		st, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, st.Mode(), path)
	}
	out, err := os.ReadFile(c.Log)
	require.NoError(t, err)
	assert.Contains(t, string(out), "-F -n c1 -P "+h.LXCPath+"\n")
	assert.Contains(t, string(out), "lxc.rootfs.path = dir:"+string(c.Base)+"\n")
	assert.Contains(t, string(out), "lxc.uts.name = box\n")
	assert.Contains(t, string(out), "LC_ALL=C\n")
	assert.NotContains(t, string(out), "NEXCAGE_SECRET", "the environment is LXC's own")
	assert.Contains(t, string(out), "\n/\n", "the working directory is no mount's")

	require.NoError(t, i.Remove())
	assert.NoDirExists(t, string(c.Base))
	assert.NoDirExists(t, filepath.Join(h.LXCPath, "c1"))
	assert.FileExists(t, c.Log, "it is of the one who named it")
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, h *Host, c *Config)
		want    error
	}{
		"no lxc-start": {func(_ *testing.T, h *Host, _ *Config) { h.LXCStart += "x" }, os.ErrNotExist},
		"a value that LXC does not read back": {func(_ *testing.T, _ *Host, c *Config) {
			c.Lines = []lxcconf.Line{lxcconf.Set("lxc.uts.name", "a\nlxc.hook.start = /evil")}
		}, errdefs.ErrInvalidArgument},
		"no log": {func(_ *testing.T, _ *Host, c *Config) { c.Log = filepath.Join(c.Log, "x") }, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHost(t, "exit 0")
			tc.prepare(t, h, &c)
			_, err := h.Start(t.Context(), c)
			require.ErrorIs(t, err, tc.want)
			assert.NoDirExists(t, string(c.Base))
			assert.NoDirExists(t, filepath.Join(h.LXCPath, c.Name))
		})
	}
}

func TestRemoveTakesWhatIsThere(t *testing.T) {
	for name, missing := range map[string][]string{
		"everything is there": nil,
		"no configuration":    {"lxc/ns/c1/config"},
		"no lxcpath":          {"lxc/ns/c1/config", "lxc/ns/c1", "lxc/ns"},
		"a base half made":    {"state/base/dev", "state/base/root"},
		"nothing is there": {"state/base/dev", "state/base/root", "state/base/proc", "state/base/init", "state/base",
			"lxc/ns/c1/config", "lxc/ns/c1"},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHost(t, "")
			require.NoError(t, h.prepare(c))
			dir := filepath.Dir(h.LXCStart)
			for _, m := range missing {
				require.NoError(t, os.Remove(filepath.Join(dir, m)))
			}
			for range 2 {
				require.NoError(t, h.Remove(c))
				assert.NoDirExists(t, string(c.Base))
				assert.NoDirExists(t, filepath.Join(h.LXCPath, c.Name))
			}
		})
	}
}

func TestRemoveTakesWhatLXCAndTheHelperLeave(t *testing.T) {
	h, c := newHost(t, "")
	require.NoError(t, h.prepare(c))
	require.NoError(t, os.Symlink("/proc/self/fd", filepath.Join(string(c.Base), "dev", "fd")))
	require.NoError(t, os.WriteFile(filepath.Join(string(c.Base), "sock"), nil, 0o600))
	lock := filepath.Join("/run/lxc/lock", h.LXCPath, ".c1")
	require.NoError(t, os.MkdirAll(filepath.Dir(lock), 0o755))
	t.Cleanup(func() { removeEmpty(filepath.Dir(lock), "/run/lxc/lock") })
	require.NoError(t, os.WriteFile(lock, nil, 0o600))
	require.NoError(t, h.Remove(c))
	assert.NoDirExists(t, string(c.Base))
	assert.NoFileExists(t, lock)
}

// removeEmpty removes dir, and the directories above that are empty then.
func removeEmpty(dir, top string) {
	for ; dir != top && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
}

func TestRemoveKeepsWhatIsNotLXCs(t *testing.T) {
	h, c := newHost(t, "")
	require.NoError(t, h.prepare(c))
	kept := filepath.Join(string(c.Base), "root", "data")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	assert.Error(t, h.Remove(c))
	assert.FileExists(t, kept)
}

func TestFailureSpeaksLXCsWords(t *testing.T) {
	h, c := newHost(t, `echo 'lxc-start: c1: ../src/lxc/conf.c: lxc_rootfs_init: 576 No such file or directory - Failed to open "/x"'; exit 1`)
	i, err := h.Start(t.Context(), c)
	require.NoError(t, err)
	<-i.Done()
	assert.EqualError(t, i.Failure(), `lxc-start c1: exit status 1: No such file or directory - Failed to open "/x"`)
	require.NoError(t, os.Remove(c.Log))
	assert.ErrorContains(t, i.Failure(), "no such file")
}

func TestTextOfTheLog(t *testing.T) {
	for name, tc := range map[string]struct{ log, want string }{
		"empty": {"", "no message"},
		"LXC 5.0, from the bottom up": {`lxc-start: c1: ../src/lxc/conf.c: lxc_rootfs_init: 576 No such file or directory - Failed to open "/nonexistent/base"
lxc-start: c1: ../src/lxc/start.c: __lxc_start: 2079 Failed to handle rootfs pinning for container "c1"
lxc-start: c1: ../src/lxc/tools/lxc_start.c: main: 306 The container failed to start
lxc-start: c1: ../src/lxc/tools/lxc_start.c: main: 311 Additional information can be obtained by setting the --logfile and --logpriority options
`, `No such file or directory - Failed to open "/nonexistent/base"; Failed to handle rootfs pinning for container "c1"; The container failed to start`},
		"a line without prefix": {`lxc-start: c1: ../src/lxc/confile.c: set_config_unsupported_key: 164 Invalid argument - Unsupported config key "lxc.nonsense"
Failed to load config for c1
`, `Invalid argument - Unsupported config key "lxc.nonsense"; Failed to load config for c1`},
		"the base has no /dev": {`lxc-start: c1: ../src/lxc/utils.c: open_devnull: 1 Can't open /dev/null

To get more details, run the container in foreground mode.
`, "no message"},
		"the end is missing": {"lxc-start: c1: ../src/lxc/x.c: f: 1 cut", "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			require.NoError(t, os.WriteFile(path, []byte(tc.log), 0o600))
			got, err := startLog(path)
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}
