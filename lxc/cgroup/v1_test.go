//lint:file-ignore SA1019 deprecated properties are refused, not forgotten

package cgroup

import (
	"path/filepath"
	"testing"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// files maps "controller/file" to what is expected in it.
type files map[string]string

func (f files) check(t *testing.T, g *Group) {
	t.Helper()
	for file, want := range f {
		assert.Equal(t, want, contents(t, g, filepath.Dir(file), filepath.Base(file)), file)
	}
}

const unlimited = "9223372036854771712" // the most that fits, in pages of 4 KiB

func TestV1LimitsAreSet(t *testing.T) {
	h := v1Host(t)
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	memory := func(m specs.LinuxMemory) specs.LinuxResources { return specs.LinuxResources{Memory: &m} }
	for name, tc := range map[string]struct {
		controller string
		resources  specs.LinuxResources
		want       files
	}{
		"nothing":      {"memory", specs.LinuxResources{}, files{"memory/memory.limit_in_bytes": unlimited}},
		"memory":       {"memory", memory(specs.LinuxMemory{Limit: ptr[int64](64 << 20), Reservation: ptr[int64](32 << 20)}), files{"memory/memory.limit_in_bytes": "67108864", "memory/memory.soft_limit_in_bytes": "33554432"}},
		"zeros":        {"memory", memory(specs.LinuxMemory{Limit: ptr[int64](0), Swap: ptr[int64](0), Reservation: ptr[int64](0)}), files{"memory/memory.limit_in_bytes": unlimited}},
		"swap":         {"memory", memory(specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20)}), files{"memory/memory.limit_in_bytes": "67108864", "memory/memory.memsw.limit_in_bytes": "100663296"}},
		"swappiness 0": {"memory", memory(specs.LinuxMemory{Swappiness: ptr[uint64](0)}), files{"memory/memory.swappiness": "0"}},
		"flags that are so": {"memory", memory(specs.LinuxMemory{DisableOOMKiller: ptr(false), UseHierarchy: ptr(true)}),
			files{"memory/memory.use_hierarchy": "1"}},
		"shares":         {"cpu", cpu(specs.LinuxCPU{Shares: ptr[uint64](512)}), files{"cpu/cpu.shares": "512"}},
		"quota":          {"cpu", cpu(specs.LinuxCPU{Quota: ptr[int64](50000), Period: ptr[uint64](200000)}), files{"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "200000"}},
		"burst":          {"cpu", cpu(specs.LinuxCPU{Quota: ptr[int64](50000), Burst: ptr[uint64](20000)}), files{"cpu/cpu.cfs_burst_us": "20000"}},
		"idle":           {"cpu", cpu(specs.LinuxCPU{Shares: ptr[uint64](512), Idle: ptr[int64](1)}), files{"cpu/cpu.idle": "1"}},
		"cpus and mems":  {"cpuset", cpu(specs.LinuxCPU{Cpus: "0", Mems: "0"}), files{"cpuset/cpuset.cpus": "0", "cpuset/cpuset.mems": "0"}},
		"pids":           {"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](7)}}, files{"pids/pids.max": "7"}},
		"pids 0":         {"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](0)}}, files{"pids/pids.max": "0"}},
		"pids unlimited": {"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}, files{"pids/pids.max": "max"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !hasController(h, tc.controller) {
				t.Skip("needs the v1 controller " + tc.controller)
			}
			g := newGroup(t, h)
			require.NoError(t, g.Apply(&tc.resources))
			tc.want.check(t, g)
		})
	}
}

// Each of them is refused by the kernel in one order of writing.
func TestV1UpdatesInEveryOrder(t *testing.T) {
	h := v1Host(t)
	memory := func(limit, swap int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}
	}
	g := newGroup(t, h)
	for _, step := range []struct {
		resources *specs.LinuxResources
		want      files
	}{
		{memory(64<<20, 64<<20), files{"memory/memory.limit_in_bytes": "67108864", "memory/memory.memsw.limit_in_bytes": "67108864"}},
		{memory(128<<20, 128<<20), files{"memory/memory.limit_in_bytes": "134217728", "memory/memory.memsw.limit_in_bytes": "134217728"}},
		{memory(32<<20, 48<<20), files{"memory/memory.limit_in_bytes": "33554432", "memory/memory.memsw.limit_in_bytes": "50331648"}},
		{memory(-1, 0), files{"memory/memory.limit_in_bytes": unlimited, "memory/memory.memsw.limit_in_bytes": unlimited}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](40000), Burst: ptr[uint64](40000)}}, files{"cpu/cpu.cfs_burst_us": "40000"}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20000), Burst: ptr[uint64](10000)}}, files{"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.cfs_burst_us": "10000"}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1), Burst: ptr[uint64](0)}}, files{"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_burst_us": "0"}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr[int64](1)}}, files{"cpu/cpu.idle": "1"}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr[int64](0), Shares: ptr[uint64](256)}}, files{"cpu/cpu.idle": "0", "cpu/cpu.shares": "256"}},
	} {
		require.NoError(t, g.Apply(step.resources))
		step.want.check(t, g)
	}
}

// A container in a pod with a quota of its own: what the kernel allows depends
// on quota and period together.
func TestV1PeriodBelowALimitedGroup(t *testing.T) {
	g := newGroup(t, v1Host(t))
	pod, err := g.dir("cpu")
	require.NoError(t, err)
	pod = filepath.Dir(pod)
	require.NoError(t, write(filepath.Join(pod, "cpu.cfs_quota_us"), "50000"))
	for _, c := range []specs.LinuxCPU{
		{Quota: ptr[int64](50000), Period: ptr[uint64](100000)},
		{Quota: ptr[int64](5000), Period: ptr[uint64](10000)},
		{Quota: ptr[int64](100000), Period: ptr[uint64](200000)},
	} {
		require.NoError(t, g.Apply(&specs.LinuxResources{CPU: &c}))
	}
	err = g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](150000)}})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.ErrorContains(t, err, "linux.resources.cpu.quota: 150000: ")
}

func TestV1WhatCannotBeSetIsNamed(t *testing.T) {
	h := v1Host(t)
	for name, tc := range map[string]struct {
		resources specs.LinuxResources
		text      string
		err       error
	}{
		"unified": {specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}},
			"linux.resources.unified: ", errdefs.ErrNotImplemented},
		"no such controller": {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr[uint32](1)}}},
			`linux.resources.rdma["mlx"]: mlx hca_handle=1: this host has no cgroup controller "rdma"`, errdefs.ErrNotImplemented},
		"no such file": {specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr[uint16](100)}},
			"linux.resources.blockIO.leafWeight: 100: this kernel has no blkio.leaf_weight", errdefs.ErrNotImplemented},
		"no such device": {specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{
			{LinuxBlockIODevice: device(4095, 1), Rate: 1}}}},
			"linux.resources.blockIO.throttleReadBpsDevice[0]: 4095:1 1: ", errdefs.ErrInvalidArgument},
		"few shares": {specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1)}},
			"linux.resources.cpu.shares: 1: is not between 2 and 262144", errdefs.ErrInvalidArgument},
		"many shares": {specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1<<18 + 1)}},
			"linux.resources.cpu.shares: 262145: is not between 2 and 262144", errdefs.ErrInvalidArgument},
		"no such CPU": {specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}},
			"linux.resources.cpu.cpus: 4000: ", errdefs.ErrInvalidArgument},
		"kernel memory": {specs.LinuxResources{Memory: &specs.LinuxMemory{Kernel: ptr[int64](1 << 20)}},
			"linux.resources.memory.kernel: ", errdefs.ErrNotImplemented},
		"device rule": {specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}},
			"linux.resources.devices[0]: x *:* rwm: ", errdefs.ErrInvalidArgument},
		"network": {specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 1}}}},
			"linux.resources.network.priorities[0]: lo 1: ", errdefs.ErrNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no such controller" && hasController(h, "rdma") || name == "network" && hasController(h, "net_prio") {
				t.Skip("this host has the controller")
			}
			err := newGroup(t, h).Apply(&tc.resources)
			require.ErrorIs(t, err, tc.err)
			assert.ErrorContains(t, err, tc.text)
		})
	}
}

func device(major, minor int64) specs.LinuxBlockIODevice {
	return specs.LinuxBlockIODevice{Major: major, Minor: minor}
}

func metricsV1(t *testing.T, g *Group) *v1.Metrics {
	t.Helper()
	m, err := g.Stats()
	require.NoError(t, err)
	require.IsType(t, &v1.Metrics{}, m)
	return m.(*v1.Metrics)
}

func TestCheckBeforeUpdate(t *testing.T) {
	g := newGroup(t, v1Host(t))
	_, out := startPiped(t, g, "x=$(head -c 1000000 /dev/zero | tr '\\0' x); echo x; read forever")
	_, err := out.ReadByte()
	require.NoError(t, err)
	limit := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](4096), CheckBeforeUpdate: ptr(true)}}
	err = g.Apply(limit)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.Regexp(t, `^linux\.resources\.memory\.limit: 4096: is less than the \d+ bytes in use`, err)
	files{"memory/memory.limit_in_bytes": unlimited}.check(t, g)
}

func TestApplyToAGroupThatIsGone(t *testing.T) {
	g := newGroup(t, v1Host(t))
	require.NoError(t, g.Remove())
	err := g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](1)}})
	assert.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestV1DeviceRulesInOrder(t *testing.T) {
	h := v1Host(t)
	if !hasController(h, "devices") {
		t.Skip("needs the v1 controller devices")
	}
	g := newGroup(t, h)
	require.NoError(t, g.Apply(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](-1), Access: "rw"},
		{Allow: false, Type: "c", Major: ptr[int64](1), Access: "w"},
	}}))
	assert.Equal(t, "c 1:* r", contents(t, g, "devices", "devices.list"))
	require.NoError(t, g.Apply(&specs.LinuxResources{}), "an update without rules changes none")
	assert.Equal(t, "c 1:* r", contents(t, g, "devices", "devices.list"))
}

func TestV1Stats(t *testing.T) {
	h := v1Host(t)
	g := newGroup(t, h)
	require.NoError(t, g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](100)}}))
	_, out := startPiped(t, g, "echo x; read forever")
	_, err := out.ReadByte()
	require.NoError(t, err)
	m := metricsV1(t, g)
	assert.EqualValues(t, 1, m.Pids.Current)
	assert.EqualValues(t, 100, m.Pids.Limit)
	assert.Positive(t, m.Memory.Usage.Usage)
	assert.Positive(t, m.CPU.Usage.Total)
}

func TestFiguresOutliveTheProcesses(t *testing.T) {
	g := newGroup(t, v1Host(t))
	require.NoError(t, g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](16 << 20), Swap: ptr[int64](16 << 20)}}))
	assert.Error(t, start(t, g, "exec tail /dev/zero").Wait())
	m := metricsV1(t, g)
	assert.EqualValues(t, 1, m.MemoryOomControl.OomKill)
	assert.Zero(t, m.Pids.Current)
}

func TestKeptFiguresOutliveTheGroup(t *testing.T) {
	g := newGroup(t, v1Host(t))
	start(t, g, "read forever")
	require.NoError(t, g.Keep())
	require.NoError(t, g.KillAndWait(t.Context()))
	require.NoError(t, g.Remove())
	assert.EqualValues(t, 1, metricsV1(t, g).Pids.Current)
}
