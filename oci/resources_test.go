package oci

import (
	"math"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func resources(r specs.LinuxResources) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources = &r }
}

func memory(m specs.LinuxMemory) func(*specs.Spec) {
	return resources(specs.LinuxResources{Memory: &m})
}

func cpu(c specs.LinuxCPU) func(*specs.Spec) { return resources(specs.LinuxResources{CPU: &c}) }

func blockIO(b specs.LinuxBlockIO) func(*specs.Spec) {
	return resources(specs.LinuxResources{BlockIO: &b})
}

func blockDevice(major, minor int64) specs.LinuxBlockIODevice {
	return specs.LinuxBlockIODevice{Major: major, Minor: minor}
}

func TestResourcesAreKept(t *testing.T) {
	r := specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: ptr(int64(100)), Swap: ptr(int64(100)), Reservation: ptr(int64(-1)), KernelTCP: ptr(int64(0)),
			Swappiness: ptr(uint64(100)), DisableOOMKiller: ptr(true),
		},
		CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(2)), Quota: ptr(int64(1000)), Burst: ptr(uint64(1000)), Period: ptr(uint64(1000000)),
			RealtimeRuntime: ptr(int64(0)), RealtimePeriod: ptr(uint64(0)), Cpus: "0-3,7", Mems: "0", Idle: ptr(int64(1)),
		},
		Pids: &specs.LinuxPids{Limit: ptr(int64(0))},
		BlockIO: &specs.LinuxBlockIO{
			Weight: ptr(uint16(1000)), LeafWeight: ptr(uint16(10)),
			WeightDevice:          []specs.LinuxWeightDevice{{LinuxBlockIODevice: blockDevice(8, 0), LeafWeight: ptr(uint16(0))}},
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: blockDevice(8, 16), Rate: math.MaxUint64}},
		},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "64KB"}, {Pagesize: "2MB"}, {Pagesize: "1GB", Limit: math.MaxUint64}},
		Network:        &specs.LinuxNetwork{ClassID: ptr(uint32(1)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 1}}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3))}},
		Unified:        map[string]string{"memory.high": "1", "io.max": "8:0 rbps=1\n8:16 rbps=2", "hugetlb.1GB.max": "0"},
	}
	p := translate(t, resources(r))
	got := *p.Resources
	got.Devices = nil
	assert.Equal(t, r, got)
}

func TestUnlimitedAndUnsetResources(t *testing.T) {
	translate(t, memory(specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}))
	translate(t, memory(specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0))}))
	translate(t, memory(specs.LinuxMemory{Limit: ptr(int64(5)), Swap: ptr(int64(-1))}))
	translate(t, cpu(specs.LinuxCPU{Quota: ptr(int64(-1)), Burst: ptr(uint64(5)), Shares: ptr(uint64(0)), Period: ptr(uint64(0))}))
	translate(t, resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}))
}

func TestResourcesThatAreRefused(t *testing.T) {
	testRefused(t, []refusedCase{
		{"memory", memory(specs.LinuxMemory{Limit: ptr(int64(-2))}), "linux.resources.memory.limit: -2 is neither a number of bytes nor -1, for no limit", nil},
		{"reservation", memory(specs.LinuxMemory{Reservation: ptr(int64(-2))}), "linux.resources.memory.reservation: -2 is neither a number of bytes nor -1, for no limit", nil},
		{
			"swap below memory", memory(specs.LinuxMemory{Limit: ptr(int64(2)), Swap: ptr(int64(1))}),
			"linux.resources.memory.swap: 1 is less than the memory limit, 2: it is the limit of both together", nil,
		},
		{
			"swap alone", memory(specs.LinuxMemory{Swap: ptr(int64(1))}),
			"linux.resources.memory.swap: 1 needs a memory.limit: it is the limit of memory and swap together", nil,
		},
		{"swappiness", memory(specs.LinuxMemory{Swappiness: ptr(uint64(101))}), "linux.resources.memory.swappiness: 101 is not between 0 and 100", nil},
		{"quota", cpu(specs.LinuxCPU{Quota: ptr(int64(999))}), "linux.resources.cpu.quota: 999 is neither 1000 microseconds or more nor -1, for no limit", nil},
		{"negative quota", cpu(specs.LinuxCPU{Quota: ptr(int64(-2))}), "linux.resources.cpu.quota: -2 is neither 1000 microseconds or more nor -1, for no limit", nil},
		{"period", cpu(specs.LinuxCPU{Period: ptr(uint64(1000001))}), "linux.resources.cpu.period: 1000001 is not between 1000 and 1000000 microseconds", nil},
		{"burst", cpu(specs.LinuxCPU{Quota: ptr(int64(1000)), Burst: ptr(uint64(1001))}), "linux.resources.cpu.burst: 1001 is more than the quota, 1000", nil},
		{"idle", cpu(specs.LinuxCPU{Idle: ptr(int64(2))}), "linux.resources.cpu.idle: 2 is not one of 0, 1", nil},
		{"realtime", cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(-2))}), "linux.resources.cpu.realtimeRuntime: -2 is neither a number of microseconds nor -1, for no limit", nil},
		{"realtime period", cpu(specs.LinuxCPU{RealtimePeriod: ptr(uint64(math.MaxUint64))}), "linux.resources.cpu.realtimePeriod: 18446744073709551615 is too much", nil},
		{"cpus", cpu(specs.LinuxCPU{Cpus: "3-1"}), `linux.resources.cpu.cpus: "3-1" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"mems", cpu(specs.LinuxCPU{Mems: "a"}), `linux.resources.cpu.mems: "a" is not a list of numbers and ranges, as in 0-3,7`, nil},
		{"pids", resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-2))}}), "linux.resources.pids.limit: -2 is neither a number of tasks nor -1, for no limit", nil},
		{"weight", blockIO(specs.LinuxBlockIO{Weight: ptr(uint16(9))}), "linux.resources.blockIO.weight: 9 is not between 10 and 1000", nil},
		{"leaf weight", blockIO(specs.LinuxBlockIO{LeafWeight: ptr(uint16(1001))}), "linux.resources.blockIO.leafWeight: 1001 is not between 10 and 1000", nil},
		{
			"no weight", blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{}}}),
			"linux.resources.blockIO.weightDevice[0]: has neither weight nor leafWeight", nil,
		},
		{
			"weight of a device", blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{Weight: ptr(uint16(9))}}}),
			"linux.resources.blockIO.weightDevice[0].weight: 9 is not between 10 and 1000", nil,
		},
		{
			"numbers of a device", blockIO(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: blockDevice(-1, 0)}}}),
			"linux.resources.blockIO.throttleWriteIOPSDevice[0].major: -1 is not between 0 and 4095", nil,
		},
		{
			"huge page", resources(specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}}),
			`linux.resources.hugepageLimits[0].pageSize: "../2MB" is not a page size, as in 64KB, 2MB or 1GB`, nil,
		},
		{
			"huge page twice", resources(specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "2MB"}}}),
			`linux.resources.hugepageLimits[1].pageSize: "2MB" is there twice`, nil,
		},
		{
			"interface", resources(specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "a\n"}}}}),
			`linux.resources.network.priorities[0].name: "a\n" is not the name of a network interface`, nil,
		},
		{
			"rdma device", resources(specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {HcaHandles: ptr(uint32(1))}}}),
			`linux.resources.rdma["a b"]: is not the name of a device`, nil,
		},
		{
			"rdma limit", resources(specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a": {}}}),
			`linux.resources.rdma["a"]: has neither hcaHandles nor hcaObjects`, nil,
		},
		{
			"unified outside", resources(specs.LinuxResources{Unified: map[string]string{"../memory.max": "1"}}),
			`linux.resources.unified["../memory.max"]: is not the name of a file of a cgroup, as in memory.high`, nil,
		},
		{
			"unified above", resources(specs.LinuxResources{Unified: map[string]string{"..": "1"}}),
			`linux.resources.unified[".."]: is not the name of a file of a cgroup, as in memory.high`, nil,
		},
		{
			"unified processes", resources(specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}),
			`linux.resources.unified["cgroup.procs"]: is for the runtime alone to write`, nil,
		},
		{
			"unified NUL", resources(specs.LinuxResources{Unified: map[string]string{"memory.max": "\x00"}}),
			`linux.resources.unified["memory.max"]: "\x00" has a NUL byte`, nil,
		},
	})
}

func TestListsOfNumbers(t *testing.T) {
	for _, good := range []string{"", "0", "0-3,7", "1-1", "65535"} {
		assert.NoError(t, checkList("x", good), good)
	}
	for _, bad := range []string{",", "0,", "-1", "1-", "a", "0-3-5", "+1", "0x1", " 1", "1 2", "1\n", "65537", "99999999999999999999"} {
		assert.Error(t, checkList("x", bad), bad)
	}
}

func TestResourcesOfAnUpdate(t *testing.T) {
	r, err := ParseResources([]byte(`{"memory": {"swap": 5}, "unknown": 1}`))
	require.NoError(t, err, "the limit may be there already")
	assert.Equal(t, int64(5), *r.Memory.Swap)
	for in, want := range map[string]string{
		`{"cpu": {"quota": 999}}`:     "linux.resources.cpu.quota: 999 is neither 1000 microseconds or more nor -1, for no limit",
		`{"cpu": {"shares": "many"}}`: "linux.resources.cpu.shares: a JSON string can not be a uint64",
	} {
		_, err := ParseResources([]byte(in))
		assert.EqualError(t, err, want)
	}
}
