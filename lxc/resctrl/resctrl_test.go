package resctrl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fakeTree is a directory that looks like a mounted resctrl: new groups get
// their files, as from the kernel.
func fakeTree(t *testing.T) tree {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "info"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "info", "last_cmd_status"), []byte("ok\n"), 0o644))
	require.NoError(t, fill(root, "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n"))
	return tree{root: root, mkdir: func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return fill(dir, "")
	}}
}

func fill(dir, schemata string) error {
	for name, text := range map[string]string{"schemata": schemata, "tasks": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if filepath.Base(filepath.Dir(dir)) == "mon_groups" {
		return nil
	}
	return os.Mkdir(filepath.Join(dir, "mon_groups"), 0o755)
}

// removeGroup is rmdir in a resctrl, for which files are no obstacle.
func removeGroup(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "tasks")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (t tree) text(tb testing.TB, path ...string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{t.root}, path...)...))
	require.NoError(tb, err)
	return string(text)
}

func TestGroups(t *testing.T) {
	for name, tc := range map[string]struct {
		spec     specs.LinuxIntelRdt
		existing string // a class, with these schemata
		dir      string
		schemata string
		monitor  string
		stays    bool // the class
	}{
		"of the container": {spec: specs.LinuxIntelRdt{}, dir: "c1"},
		"with schemata": {
			// Files of a real resctrl take a line at a time; the fake keeps the last.
			spec: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20"}, dir: "c1", schemata: "MB:0=20\n",
		},
		"schemata come last": {
			spec: specs.LinuxIntelRdt{MemBwSchema: "MB:0=20", Schemata: []string{"L3:0=1f", "L2:0=f"}}, dir: "c1", schemata: "L2:0=f\n\n",
		},
		"a new class":        {spec: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, dir: "gold", schemata: "L3:0=f\n", stays: true},
		"a class that is":    {spec: specs.LinuxIntelRdt{ClosID: "gold"}, existing: "L3:0=f\n", dir: "gold", schemata: "L3:0=f\n", stays: true},
		"the default class":  {spec: specs.LinuxIntelRdt{ClosID: "/"}, dir: "", schemata: "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n", stays: true},
		"the same schemata":  {spec: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:1=00FF;0=1f"}, existing: "    L3:0=1f;1=ff\n", dir: "gold", schemata: "    L3:0=1f;1=ff\n", stays: true},
		"monitored":          {spec: specs.LinuxIntelRdt{EnableMonitoring: true}, dir: "c1", monitor: "c1/mon_groups/c1"},
		"monitored in class": {spec: specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, existing: "x", dir: "gold", schemata: "x", monitor: "gold/mon_groups/c1", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := fakeTree(t)
			if tc.existing != "" {
				require.NoError(t, tr.mkdir(filepath.Join(tr.root, tc.spec.ClosID)))
				require.NoError(t, write(filepath.Join(tr.root, tc.spec.ClosID, "schemata"), tc.existing))
			}
			g, err := tr.create(&tc.spec, "c1")
			require.NoError(t, err)
			assert.Equal(t, filepath.Join(tr.root, tc.dir), g.Dir)
			got := tr.text(t, tc.dir, "schemata")
			assert.True(t, got == tc.schemata || strings.HasPrefix(got, strings.TrimSuffix(tc.schemata, "\n")), "%q", got)
			require.NoError(t, g.Join(4711))
			assert.Equal(t, "4711", tr.text(t, tc.dir, "tasks"))
			if tc.monitor != "" {
				assert.Equal(t, filepath.Join(tr.root, tc.monitor), g.Monitor)
				assert.Equal(t, "4711", tr.text(t, tc.monitor, "tasks"))
			}
			require.NoError(t, g.remove(removeGroup))
			_, err = os.Stat(filepath.Join(tr.root, tc.dir))
			assert.Equal(t, tc.stays, err == nil)
			if tc.monitor != "" {
				_, err = os.Stat(filepath.Join(tr.root, tc.monitor))
				assert.ErrorIs(t, err, os.ErrNotExist)
			}
			require.NoError(t, g.remove(removeGroup), "what is gone is no error")
		})
	}
}

func TestGroupsThatCanNotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		spec     specs.LinuxIntelRdt
		existing string
		message  string
	}{
		"no such class":   {specs.LinuxIntelRdt{ClosID: "gold"}, "", `linux.intelRdt.closID: "gold": no such class, and no schemata to make one`},
		"other schemata":  {specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, "L3:0=1f\n", `linux.intelRdt.l3CacheSchema: "L3:0=f": the class exists, and has other schemata: "L3:0=1f"`},
		"other bandwidth": {specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:0=20"}, "L3:0=1f\n", `linux.intelRdt.memBwSchema: "MB:0=20": the class exists`},
		"another's":       {specs.LinuxIntelRdt{}, "x", `c1: is another's`},
	} {
		t.Run(name, func(t *testing.T) {
			tr := fakeTree(t)
			if tc.existing != "" {
				name := tc.spec.ClosID
				if name == "" {
					name = "c1"
				}
				require.NoError(t, tr.mkdir(filepath.Join(tr.root, name)))
				require.NoError(t, write(filepath.Join(tr.root, name, "schemata"), tc.existing))
			}
			g, err := tr.create(&tc.spec, "c1")
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			require.ErrorContains(t, err, tc.message)
			assert.True(t, g == nil || !g.Made, "what is not ours is not removed")
		})
	}
}

// What the kernel refuses is said in its own words, and a new class goes again.
func TestTheKernelsReasonIsTold(t *testing.T) {
	tr := fakeTree(t)
	require.NoError(t, os.WriteFile(filepath.Join(tr.root, "info", "last_cmd_status"), []byte("Mask out of range\n"), 0o644))
	made := tr.mkdir
	tr.mkdir = func(dir string) error {
		if err := made(dir); err != nil {
			return err
		}
		// A directory in the way: the write fails.
		file := filepath.Join(dir, "schemata")
		return errors.Join(os.Remove(file), os.Mkdir(file, 0o755))
	}
	g, err := tr.create(&specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=fffff"}, "c1")
	require.ErrorIs(t, err, unix.EISDIR)
	require.ErrorContains(t, err, `linux.intelRdt.l3CacheSchema: "L3:0=fffff":`)
	require.ErrorContains(t, err, "(Mask out of range)")
	require.True(t, g.Made)
	require.NoError(t, g.remove(removeGroup))
	assert.NoDirExists(t, filepath.Join(tr.root, "gold"))

	tr = fakeTree(t)
	tr.mkdir = func(string) error { return unix.ENOSPC }
	_, err = tr.create(&specs.LinuxIntelRdt{}, "c1")
	require.ErrorIs(t, err, unix.ENOSPC)
}

func TestNoGroupIsNoWork(t *testing.T) {
	var g *Group
	require.NoError(t, g.Join(1))
	require.NoError(t, g.Remove())
}
