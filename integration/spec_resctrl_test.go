package integration

import (
	"os"
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
