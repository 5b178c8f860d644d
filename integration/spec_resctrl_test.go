package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSpecIntelRdt is about linux.intelRdt, by the files of resctrl.
func TestSpecIntelRdt(t *testing.T) { runRows(t, resctrlRows) }

var resctrlRows = []row{
	{
		name: "class-of-the-container", fields: []string{"linux.intelRdt"}, needs: []need{resctrl},
		lacking: "linux.intelRdt: no resctrl file system is mounted",
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{}
		},
		look: func(x *shown) {
			tasks, err := os.ReadFile("/sys/fs/resctrl/" + x.ID + "/tasks")
			require.NoError(x.t, err)
			assert.Contains(x.t, strings.Fields(string(tasks)), itoa(int(x.Pid)))
		},
		after: func(x *shown) { assert.NoDirExists(x.t, "/sys/fs/resctrl/"+x.ID) },
	},
	{
		name: "monitoring-group", fields: []string{"linux.intelRdt.enableMonitoring"}, needs: []need{resctrl}, crun: "1.26",
		lacking: "linux.intelRdt: no resctrl file system is mounted",
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true}
		},
		look: func(x *shown) {
			tasks, err := os.ReadFile("/sys/fs/resctrl/mon_groups/" + x.ID + "/tasks")
			require.NoError(x.t, err)
			assert.Contains(x.t, strings.Fields(string(tasks)), itoa(int(x.Pid)))
		},
		after: func(x *shown) { assert.NoDirExists(x.t, "/sys/fs/resctrl/mon_groups/"+x.ID) },
	},
	resctrlSchemata("schemata", "L3", "1.26", func(r *specs.LinuxIntelRdt, line string) { r.Schemata = []string{line} }),
	resctrlSchemata("l3CacheSchema", "L3", "", func(r *specs.LinuxIntelRdt, line string) { r.L3CacheSchema = line }),
	resctrlSchemata("memBwSchema", "MB", "", func(r *specs.LinuxIntelRdt, line string) { r.MemBwSchema = line }),
	{
		name: "class-of-service-with-a-slash", fields: []string{"linux.intelRdt.closID"}, refused: `linux.intelRdt.closID: "a/b"`, flaw: upTo("1.8.1", "ignores it where there is no resctrl"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "a/b"}
		},
	},
	{
		name: "schema-of-two-lines", fields: []string{"linux.intelRdt.l3CacheSchema"}, refused: `linux.intelRdt.l3CacheSchema`, flaw: upTo("1.8.1", "ignores it where there is no resctrl"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f\nMB:0=20"}
		},
	},
}

// resctrlSchemata is a container whose class has half of what the machine has
// of a resource, in its first domain.
func resctrlSchemata(name, kind, crun string, set func(r *specs.LinuxIntelRdt, line string)) row {
	const root = "/sys/fs/resctrl/"
	has := need{kind + " in resctrl", func() bool { domain, _ := schema(root, kind); return domain != "" }}
	var domain, half string
	return row{
		name: "class-with-" + name, fields: []string{"linux.intelRdt." + name}, needs: []need{resctrl, has}, crun: crun,
		lacking: "linux.intelRdt",
		spec: func(_ *shown, s *specs.Spec) {
			var whole string
			domain, whole = schema(root, kind)
			half = halved(kind, whole)
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{}
			set(s.Linux.IntelRdt, kind+":"+domain+"="+half)
		},
		look: func(x *shown) {
			id, value := schema(root+x.ID, kind)
			assert.Equal(x.t, domain+"="+half, id+"="+value)
		},
		after: func(x *shown) { assert.NoDirExists(x.t, root+x.ID) },
	}
}

// schema is the first domain of a resource in the schemata of a class, and what
// the class has of it, without zeros before it.
func schema(dir, kind string) (domain, value string) {
	text, _ := os.ReadFile(filepath.Join(dir, "schemata"))
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), kind+":")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(list, ";")
		domain, value, _ = strings.Cut(first, "=")
		return domain, strings.TrimLeft(value, "0 ")
	}
	return "", ""
}

// halved is half of a bit mask of a cache, or of a percentage of bandwidth.
func halved(kind, value string) string {
	base := 16
	if kind == "MB" {
		base = 10
	}
	n, _ := strconv.ParseUint(value, base, 64) // of a machine without it nothing is asked
	return strconv.FormatUint(n/2, base)
}

// What the rows of a machine with resctrl compare is read right.
func TestSchemataAreRead(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "schemata"), []byte("    MB:0=100;1=100\n    L3:0=07ff;1=07ff\n"), 0o600))
	for kind, want := range map[string][3]string{"L3": {"0", "7ff", "3ff"}, "MB": {"0", "100", "50"}, "L2": {"", "", "0"}} {
		domain, value := schema(dir, kind)
		assert.Equal(t, want, [3]string{domain, value, halved(kind, value)}, kind)
	}
}
