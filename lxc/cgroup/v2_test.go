//lint:file-ignore SA1019 deprecated properties are refused, not forgotten

package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestV2Translation(t *testing.T) {
	memory := func(m specs.LinuxMemory) specs.LinuxResources { return specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	disk := device(8, 16)
	for name, tc := range map[string]struct {
		resources specs.LinuxResources
		has       map[string]string // files of the group
		want      []string          // file=value, optional ones with a ?
	}{
		"nothing":          {},
		"memory":           {resources: memory(specs.LinuxMemory{Limit: ptr[int64](1000), Reservation: ptr[int64](500)}), want: []string{"memory.max=1000", "memory.low=500"}},
		"memory unlimited": {resources: memory(specs.LinuxMemory{Limit: ptr[int64](-1), Reservation: ptr[int64](-1)}), want: []string{"?memory.swap.max=max", "memory.max=max", "memory.low=max"}},
		"swap":             {resources: memory(specs.LinuxMemory{Limit: ptr[int64](1000), Swap: ptr[int64](1500)}), want: []string{"memory.swap.max=500", "memory.max=1000"}},
		"no swap":          {resources: memory(specs.LinuxMemory{Limit: ptr[int64](1000), Swap: ptr[int64](1000)}), want: []string{"?memory.swap.max=0", "memory.max=1000"}},
		"swap unlimited":   {resources: memory(specs.LinuxMemory{Limit: ptr[int64](1000), Swap: ptr[int64](-1)}), want: []string{"?memory.swap.max=max", "memory.max=1000"}},
		"swap alone":       {resources: memory(specs.LinuxMemory{Limit: ptr[int64](-1), Swap: ptr[int64](1500)}), want: []string{"memory.swap.max=1500", "memory.max=max"}},
		"zeros":            {resources: memory(specs.LinuxMemory{Limit: ptr[int64](0), Swap: ptr[int64](0), Kernel: ptr[int64](-1), DisableOOMKiller: ptr(false), UseHierarchy: ptr(true)})},
		"few shares":       {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](1)}), want: []string{"cpu.weight=1"}},
		"many shares":      {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](1 << 20)}), want: []string{"cpu.weight=10000"}},
		"least shares":     {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](2)}), want: []string{"cpu.weight=1"}},
		"default shares":   {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](1024)}), want: []string{"cpu.weight=100"}},
		"most shares":      {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](262144)}), want: []string{"cpu.weight=10000"}},
		"idle":             {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](2), Idle: ptr[int64](1)}), want: []string{"cpu.weight=1", "cpu.idle=1"}},
		"not idle":         {resources: cpu(specs.LinuxCPU{Shares: ptr[uint64](2), Idle: ptr[int64](0)}), want: []string{"?cpu.idle=0", "cpu.weight=1"}},
		"quota":            {resources: cpu(specs.LinuxCPU{Quota: ptr[int64](5000)}), want: []string{"cpu.max=5000"}},
		"quota and period": {resources: cpu(specs.LinuxCPU{Quota: ptr[int64](5000), Period: ptr[uint64](10000)}), want: []string{"cpu.max=5000 10000"}},
		"quota unlimited":  {resources: cpu(specs.LinuxCPU{Quota: ptr[int64](-1), Period: ptr[uint64](10000)}), want: []string{"cpu.max=max 10000"}},
		"period keeps quota": {resources: cpu(specs.LinuxCPU{Period: ptr[uint64](10000)}), has: map[string]string{"cpu.max": "7000 100000"},
			want: []string{"cpu.max=7000 10000"}},
		"burst":    {resources: cpu(specs.LinuxCPU{Quota: ptr[int64](5000), Burst: ptr[uint64](1000)}), want: []string{"cpu.max=5000", "cpu.max.burst=1000"}},
		"no burst": {resources: cpu(specs.LinuxCPU{Burst: ptr[uint64](0)}), want: []string{"?cpu.max.burst=0"}},
		"cpuset":   {resources: cpu(specs.LinuxCPU{Cpus: "0-1", Mems: "0"}), want: []string{"cpuset.cpus=0-1", "cpuset.mems=0"}},
		"pids":     {resources: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}, want: []string{"pids.max=max"}},
		"weight": {resources: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](1000),
			WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: disk, Weight: ptr[uint16](10)}}}},
			want: []string{"io.weight=10000", "io.weight=8:16 1"}},
		"weight of BFQ": {resources: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](1000),
			WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: disk, Weight: ptr[uint16](10)}}}},
			has:  map[string]string{"io.bfq.weight": "default 100"},
			want: []string{"io.bfq.weight=1000", "io.bfq.weight=8:16 10"}},
		"throttle": {resources: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice:   []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 1}},
			ThrottleWriteBpsDevice:  []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 2}},
			ThrottleReadIOPSDevice:  []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 3}},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 0}},
		}}, want: []string{"io.max=8:16 rbps=1", "io.max=8:16 wbps=2", "io.max=8:16 riops=3", "io.max=8:16 wiops=max"}},
		"huge pages": {resources: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			want: []string{"hugetlb.2MB.max=4194304", "?hugetlb.2MB.rsvd.max=4194304"}},
		"rdma": {resources: specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx2": {HcaObjects: ptr[uint32](0)}, "mlx1": {HcaHandles: ptr[uint32](2), HcaObjects: ptr[uint32](3)}}},
			want: []string{"rdma.max=mlx1 hca_handle=2 hca_object=3", "rdma.max=mlx2 hca_object=0"}},
		"unified": {resources: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](5)}, Unified: map[string]string{"pids.max": "7", "memory.high": "1G"}},
			want: []string{"pids.max=5", "memory.high=1G", "pids.max=7"}},
	} {
		t.Run(name, func(t *testing.T) {
			table := &table{read: func(_, file string) (string, bool) { v, ok := tc.has[file]; return v, ok }}
			settings, err := table.v2(&tc.resources)
			require.NoError(t, err)
			var got []string
			for _, s := range settings {
				assert.True(t, strings.HasPrefix(s.file, s.controller+"."), s)
				mark := ""
				if s.optional {
					mark = "?"
				}
				got = append(got, mark+s.file+"="+s.value)
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestV2RefusesWhatItDoesNotHave(t *testing.T) {
	for property, r := range map[string]specs.LinuxResources{
		"memory.kernel":           {Memory: &specs.LinuxMemory{Kernel: ptr[int64](1)}},
		"memory.kernelTCP":        {Memory: &specs.LinuxMemory{KernelTCP: ptr[int64](1)}},
		"memory.swappiness":       {Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](0)}},
		"memory.disableOOMKiller": {Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}},
		"memory.useHierarchy":     {Memory: &specs.LinuxMemory{UseHierarchy: ptr(false)}},
		"cpu.realtimePeriod":      {CPU: &specs.LinuxCPU{RealtimePeriod: ptr[uint64](1)}},
		"cpu.realtimeRuntime":     {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr[int64](1)}},
		"blockIO.leafWeight":      {BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr[uint16](1)}},
		"blockIO.weightDevice":    {BlockIO: &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{LeafWeight: ptr[uint16](1)}}}},
		"network.classID":         {Network: &specs.LinuxNetwork{ClassID: ptr[uint32](1)}},
		"network.priorities":      {Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo"}}}},
	} {
		t.Run(property, func(t *testing.T) {
			_, err := (&table{}).v2(&r)
			require.ErrorIs(t, err, errdefs.ErrNotImplemented)
			assert.ErrorContains(t, err, "linux.resources."+property+": ")
		})
	}
	for name, m := range map[string]specs.LinuxMemory{
		"swap below memory":  {Limit: ptr[int64](2), Swap: ptr[int64](1)},
		"swap without limit": {Swap: ptr[int64](1)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&table{}).v2(&specs.LinuxResources{Memory: &m})
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, "linux.resources.memory.swap: 1: ")
		})
	}
}

// hugetlb is the controller that is on the cgroup2 of a hybrid machine, if any.
func TestV2HugePages(t *testing.T) {
	h := v2Host(t)
	has, err := os.ReadFile(filepath.Join(h.v2.mount, "cgroup.controllers"))
	require.NoError(t, err)
	if !slices.Contains(strings.Fields(string(has)), "hugetlb") {
		t.Skip("needs the v2 controller hugetlb")
	}
	g := newGroup(t, h)
	require.NoError(t, g.Apply(&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}))
	files{"hugetlb/hugetlb.2MB.max": "4194304", "hugetlb/hugetlb.2MB.rsvd.max": "4194304"}.check(t, g)
	require.NoError(t, g.Apply(&specs.LinuxResources{Unified: map[string]string{"hugetlb.2MB.max": "max"}}))
	files{"hugetlb/hugetlb.2MB.max": "max"}.check(t, g)
	err = g.Apply(&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}})
	require.ErrorIs(t, err, errdefs.ErrNotImplemented)
	assert.ErrorContains(t, err, "linux.resources.hugepageLimits[0]: 1: this kernel has no hugetlb.3MB.max")
}

func TestV2NamesTheControllerThatIsNotEnabled(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu pids\n"), 0o644))
	g := &Group{unified: true, places: []place{{hierarchy{mount: filepath.Dir(dir), v2: true}, dir}}}
	err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](1000)}})
	require.ErrorIs(t, err, errdefs.ErrNotImplemented)
	assert.EqualError(t, err, `linux.resources.memory.limit: 1000: the controller "memory" is not enabled for `+dir+`, which has "cpu pids": not implemented`)
}

func TestV2Stats(t *testing.T) {
	g := newGroup(t, v2Host(t))
	m, err := g.Stats()
	require.NoError(t, err)
	require.IsType(t, &v2.Metrics{}, m)
}

func TestV2Devices(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	const read, write, both = "</dev/zero", ">/dev/zero", "<>/dev/zero"
	for name, tc := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  map[string]bool
	}{
		"nothing is said":       {[]specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rwm")}, map[string]bool{read: false, "</dev/null": true}},
		"all":                   {[]specs.LinuxDeviceCgroup{{Allow: true}}, map[string]bool{read: true, write: true, both: true}},
		"all but one":           {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a"}, rule(false, "c", 1, 5, "rwm")}, map[string]bool{read: false, "</dev/null": true}},
		"one":                   {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 5, "rw")}, map[string]bool{read: true, both: true, "</dev/null": false}},
		"any minor":             {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, -1, "rw")}, map[string]bool{read: true, "</dev/null": true}},
		"another type":          {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "b", 1, 5, "rw")}, map[string]bool{read: false}},
		"to read is not both":   {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 5, "r")}, map[string]bool{read: true, write: false, both: false}},
		"by two rules":          {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 5, "r"), rule(true, "c", 1, -1, "w")}, map[string]bool{both: true}},
		"write is taken back":   {[]specs.LinuxDeviceCgroup{{Allow: true}, rule(false, "c", 1, 5, "w")}, map[string]bool{read: true, write: false, both: false}},
		"the last rule counts":  {[]specs.LinuxDeviceCgroup{rule(true, "c", 1, 5, "rw"), denyAll}, map[string]bool{read: false}},
		"mknod says nothing":    {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", -1, -1, "m")}, map[string]bool{read: false}},
		"allowed again, partly": {[]specs.LinuxDeviceCgroup{denyAll, {Allow: true}, denyAll, rule(true, "c", 1, 5, "r")}, map[string]bool{read: true, write: false}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, v2Host(t))
			// Replaced as a whole.
			require.NoError(t, g.Apply(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{denyAll}}))
			require.NoError(t, g.Apply(&specs.LinuxResources{Devices: tc.rules}))
			require.NoError(t, g.Apply(&specs.LinuxResources{}))
			for access, allowed := range tc.want {
				err := start(t, g, ": "+access).Wait()
				assert.Equal(t, allowed, err == nil, access)
			}
		})
	}
	for access, r := range map[string]specs.LinuxDeviceCgroup{"type": {Type: "x"}, "access": {Access: "rwx"}} {
		err := newGroup(t, v2Host(t)).Apply(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{denyAll, r}})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		assert.ErrorContains(t, err, "linux.resources.devices[1]: "+access)
	}
}
