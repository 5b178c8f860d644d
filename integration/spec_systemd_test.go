package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecSystemd is about linux.cgroupsPath in systemd's form, on hosts that
// run systemd.
func TestSpecSystemd(t *testing.T) { runRows(t, systemdRows) }

var systemdRuns = need{"systemd", func() bool { return exists("/run/systemd/system") }}

// systemdFindsUs is what it takes to name a process to systemd: pidfds, from 253 on,
// or a session in the machine's own pid namespace.
var systemdFindsUs = need{"systemd 253", func() bool {
	var version int
	out, err := exec.Command("systemctl", "--version").Output()
	if err != nil {
		return false
	}
	n, _ := fmt.Sscanf(string(out), "systemd %d", &version)
	return harness.WholeGuest() || n == 1 && version >= 253
}}

// noScope is what a shim says that can not have one here.
func noScope() string {
	if systemdRuns.has() {
		return "linux.cgroupsPath: start the systemd unit"
	}
	return "is a systemd unit (slice:prefix:name), but systemd is not running"
}

// scopeOf is the unit of a row's container.
func scopeOf(x *shown) string { return "cri-" + x.ID + ".scope" }

func inScope(slice string, change func(*specs.Spec)) func(x *shown, s *specs.Spec) {
	return func(_ *shown, s *specs.Spec) {
		s.Linux.CgroupsPath = slice + ":cri:" + lastWord(s.Linux.CgroupsPath)
		change(s)
	}
}

var systemdRows = []row{
	{
		name: "scope-of-systemd", flaw: byDesign("names its process by a pid of the tests' own namespace"), fields: []string{"linux.cgroupsPath"}, needs: []need{systemdRuns, systemdFindsUs},
		lacking: noScope(),
		spec: inScope("nexcage-test.slice", func(s *specs.Spec) {
			limit, pids, shares, quota := int64(64<<20), int64(50), uint64(512), int64(50000)
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota}
		}),
		look: func(x *shown) {
			unit := run(x.t, "env", "SYSTEMCTL_FORCE_BUS=1", "systemctl", "show", "-p", "Slice,Delegate,MemoryMax,TasksMax,CPUQuotaPerSecUSec,ActiveState", scopeOf(x))
			for _, want := range []string{"Slice=nexcage-test.slice", "Delegate=yes", "MemoryMax=67108864", "TasksMax=50", "CPUQuotaPerSecUSec=500ms", "ActiveState=active"} {
				assert.Contains(x.t, strings.Split(strings.TrimSpace(unit), "\n"), want)
			}
			for _, path := range x.cgroupsOf(int(x.Pid)) {
				assert.Contains(x.t, path, "/nexcage.slice/nexcage-test.slice/"+scopeOf(x))
			}
			assert.Equal(x.t, "67108864", x.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"))
			assert.Equal(x.t, "50", x.cgroupFile("pids", "pids.max", "pids.max"))

			more := int64(96 << 20)
			require.NoError(x.t, x.Update(x.ctx, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &more}}))
			assert.Equal(x.t, "100663296", x.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"))
			assert.Contains(x.t, run(x.t, "env", "SYSTEMCTL_FORCE_BUS=1", "systemctl", "show", "-p", "MemoryMax", scopeOf(x)), "MemoryMax=100663296")
		},
		after: func(x *shown) {
			assert.Contains(x.t, run(x.t, "env", "SYSTEMCTL_FORCE_BUS=1", "systemctl", "show", "-p", "LoadState", scopeOf(x)), "LoadState=not-found")
		},
	},
	{
		name: "scope-in-no-slice", flaw: upTo("1.21", "goes up with it"), fields: []string{"linux.cgroupsPath"}, needs: []need{systemdRuns},
		refused: `linux.cgroupsPath: "a/../b:cri:`, lacking: "linux.cgroupsPath: ",
		spec: inScope("a/../b", func(*specs.Spec) {}),
	},
}
