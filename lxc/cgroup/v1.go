package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// table collects the settings of one translation.
type table struct {
	settings []setting
	// read returns a file of the group, for translations that depend on what
	// the kernel has or on what is set.
	read func(controller, file string) (string, bool)
}

func (t *table) add(property, controller, file, value string) *setting {
	t.settings = append(t.settings, setting{property: property, controller: controller, file: file, value: value})
	return &t.settings[len(t.settings)-1]
}

func (t *table) has(controller, file string) bool {
	_, ok := t.read(controller, file)
	return ok
}

// number adds a value that is neither missing nor zero.
func number[T int64 | uint64 | uint32 | uint16](t *table, property, controller, file string, v *T) {
	if v != nil && *v != 0 {
		t.add(property, controller, file, fmt.Sprint(*v))
	}
}

// text adds a value that is not empty.
func (t *table) text(property, controller, file, v string) {
	if v != "" {
		t.add(property, controller, file, v)
	}
}

// v1 translates for cgroup v1 (kernel documentation, cgroup-v1/).
func (t *table) v1(r *specs.LinuxResources) ([]setting, error) {
	if len(r.Unified) > 0 {
		return nil, fmt.Errorf("linux.resources.unified: is for cgroup v2, this host has v1: %w", errdefs.ErrNotImplemented)
	}
	if r.Memory != nil {
		//lint:ignore SA1019 deprecated, but it may be there
		if value(r.Memory.Kernel) > 0 {
			return nil, fmt.Errorf("linux.resources.memory.kernel: kernels since 5.16 take it without effect: %w", errdefs.ErrNotImplemented)
		}
		t.memoryV1(r.Memory)
	}
	if r.CPU != nil {
		if err := checkShares(value(r.CPU.Shares)); err != nil {
			return nil, err
		}
		t.cpuV1(r.CPU)
	}
	t.pids(r.Pids)
	if r.BlockIO != nil {
		t.blockIOV1(r.BlockIO)
	}
	t.hugepages(r.HugepageLimits, "limit_in_bytes")
	if n := r.Network; n != nil {
		number(t, "network.classID", "net_cls", "net_cls.classid", n.ClassID)
		for i, p := range n.Priorities {
			t.text(fmt.Sprintf("network.priorities[%d]", i), "net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	t.rdma(r.Rdma)
	return t.settings, nil
}

func (t *table) memoryV1(m *specs.LinuxMemory) {
	number(t, "memory.limit", "memory", "memory.limit_in_bytes", m.Limit)
	switch swap := value(m.Swap); {
	case swap > 0:
		number(t, "memory.swap", "memory", "memory.memsw.limit_in_bytes", m.Swap)
	case swap < 0 || value(m.Limit) < 0:
		// No limit of memory is no limit of both, or memory would stay
		// limited by it. Without accounting of swap there is none anyway.
		t.add("memory.swap", "memory", "memory.memsw.limit_in_bytes", "-1").optional = true
	}
	number(t, "memory.reservation", "memory", "memory.soft_limit_in_bytes", m.Reservation)
	number(t, "memory.kernelTCP", "memory", "memory.kmem.tcp.limit_in_bytes", m.KernelTCP)
	if m.Swappiness != nil {
		t.add("memory.swappiness", "memory", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
	t.flag("memory.disableOOMKiller", "memory.oom_control", m.DisableOOMKiller)
	t.flag("memory.useHierarchy", "memory.use_hierarchy", m.UseHierarchy)
}

// flag sets a boolean of the memory controller, if it is not what it is.
func (t *table) flag(property, file string, v *bool) {
	if v == nil {
		return
	}
	want := "0"
	if *v {
		want = "1"
	}
	if now, ok := t.read("memory", file); ok && (now == want || field(now, "oom_kill_disable") == want) {
		return
	}
	t.add(property, "memory", file, want)
}

// checkShares refuses what the kernel would change without a word, as runc does
// (kernel/sched/core.c). What v2 has instead is a weight: there the nearest is taken.
func checkShares(shares uint64) error {
	const least, most = 2, 1 << 18
	if shares != 0 && (shares < least || shares > most) {
		return fmt.Errorf("linux.resources.cpu.shares: %d: is not between %d and %d: %w", shares, least, most, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (t *table) cpuV1(c *specs.LinuxCPU) {
	t.sharesAndIdle(c, "cpu.shares", func(s uint64) uint64 { return s })
	number(t, "cpu.period", "cpu", "cpu.cfs_period_us", c.Period)
	number(t, "cpu.quota", "cpu", "cpu.cfs_quota_us", c.Quota)
	if c.Burst != nil {
		// 0, no burst, is a value; kernels before 5.14 know no other.
		t.add("cpu.burst", "cpu", "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10)).optional = *c.Burst == 0
	}
	number(t, "cpu.realtimePeriod", "cpu", "cpu.rt_period_us", c.RealtimePeriod)
	number(t, "cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us", c.RealtimeRuntime)
	t.text("cpu.cpus", "cpuset", "cpuset.cpus", c.Cpus)
	t.text("cpu.mems", "cpuset", "cpuset.mems", c.Mems)
}

// sharesAndIdle writes the shares while the group is not idle: an idle one has
// a weight of its own, and refuses another.
func (t *table) sharesAndIdle(c *specs.LinuxCPU, file string, convert func(uint64) uint64) {
	idle := c.Idle != nil && *c.Idle != 0
	if c.Idle != nil && !idle {
		// Kernels before 5.15 have no idle groups.
		t.add("cpu.idle", "cpu", "cpu.idle", "0").optional = true
	}
	if shares := value(c.Shares); shares != 0 {
		t.add("cpu.shares", "cpu", file, strconv.FormatUint(convert(shares), 10))
	}
	if idle {
		t.add("cpu.idle", "cpu", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
}

func (t *table) pids(p *specs.LinuxPids) {
	if p != nil && p.Limit != nil {
		t.add("pids.limit", "pids", "pids.max", maxOr(*p.Limit))
	}
}

// hugepages limits the usage and, where the kernel can (5.7), the
// reservations: a process whose reservation succeeds is then not killed later.
func (t *table) hugepages(limits []specs.LinuxHugepageLimit, suffix string) {
	for i, l := range limits {
		property, limit := fmt.Sprintf("hugepageLimits[%d]", i), strconv.FormatUint(l.Limit, 10)
		t.add(property, "hugetlb", "hugetlb."+l.Pagesize+"."+suffix, limit)
		t.add(property, "hugetlb", "hugetlb."+l.Pagesize+".rsvd."+suffix, limit).optional = true
	}
}

// rdma is the same in both versions.
func (t *table) rdma(limits map[string]specs.LinuxRdma) {
	for _, device := range slices.Sorted(maps.Keys(limits)) {
		line := device
		if n := limits[device].HcaHandles; n != nil {
			line += fmt.Sprintf(" hca_handle=%d", *n)
		}
		if n := limits[device].HcaObjects; n != nil {
			line += fmt.Sprintf(" hca_object=%d", *n)
		}
		t.add(fmt.Sprintf("rdma[%q]", device), "rdma", "rdma.max", line)
	}
}

func (t *table) blockIOV1(b *specs.LinuxBlockIO) {
	// CFQ's files, or those of BFQ, which came after it.
	prefix := "blkio.bfq."
	if t.has("blkio", "blkio.weight") {
		prefix = "blkio."
	}
	number(t, "blockIO.weight", "blkio", prefix+"weight", b.Weight)
	number(t, "blockIO.leafWeight", "blkio", "blkio.leaf_weight", b.LeafWeight)
	for i, d := range b.WeightDevice {
		property := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		if d.Weight != nil {
			t.add(property+".weight", "blkio", prefix+"weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
		if d.LeafWeight != nil {
			t.add(property+".leafWeight", "blkio", "blkio.leaf_weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight))
		}
	}
	for _, l := range throttles(b) {
		for i, d := range l.devices {
			t.add(fmt.Sprintf("blockIO.%s[%d]", l.property, i), "blkio", l.v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
}

// throttle is a list of limits of the spec, with its file in v1 and its key in
// io.max.
type throttle struct {
	property, v1, v2 string
	devices          []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func value[T int64 | uint64 | uint16 | uint32](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

func maxOr(limit int64) string {
	if limit < 0 {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}
