package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// v2 translates for cgroup v2 (kernel documentation, cgroup-v2.rst). The spec
// has the limits of v1; those that v2 does not have are refused.
func (t *table) v2(r *specs.LinuxResources) ([]setting, error) {
	if err := refuseOnV2(r); err != nil {
		return nil, err
	}
	if r.Memory != nil {
		if err := t.memoryV2(r.Memory); err != nil {
			return nil, err
		}
	}
	if r.CPU != nil {
		t.cpuV2(r.CPU)
	}
	t.pids(r.Pids)
	if r.BlockIO != nil {
		t.blockIOV2(r.BlockIO)
	}
	t.hugepages(r.HugepageLimits, "max")
	t.rdma(r.Rdma)
	// Verbatim and last, so that it overrides.
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		controller, _, _ := strings.Cut(file, ".")
		t.add(fmt.Sprintf("unified[%q]", file), controller, file, r.Unified[file])
	}
	return t.settings, nil
}

// refuseOnV2 finds what only v1 has. What asks for nothing is let through.
func refuseOnV2(r *specs.LinuxResources) error {
	m, c, b, n := r.Memory, r.CPU, r.BlockIO, r.Network
	if m == nil {
		m = &specs.LinuxMemory{}
	}
	if c == nil {
		c = &specs.LinuxCPU{}
	}
	if b == nil {
		b = &specs.LinuxBlockIO{}
	}
	if n == nil {
		n = &specs.LinuxNetwork{}
	}
	for _, f := range []struct {
		property string
		set      bool
	}{
		//lint:ignore SA1019 deprecated, but it may be there
		{"memory.kernel", value(m.Kernel) > 0},
		{"memory.kernelTCP", value(m.KernelTCP) > 0},
		{"memory.swappiness", m.Swappiness != nil},
		{"memory.disableOOMKiller", m.DisableOOMKiller != nil && *m.DisableOOMKiller},
		{"memory.useHierarchy", m.UseHierarchy != nil && !*m.UseHierarchy},
		{"cpu.realtimePeriod", value(c.RealtimePeriod) != 0},
		{"cpu.realtimeRuntime", value(c.RealtimeRuntime) != 0},
		{"blockIO.leafWeight", value(b.LeafWeight) != 0},
		{"blockIO.weightDevice", slices.ContainsFunc(b.WeightDevice, func(d specs.LinuxWeightDevice) bool { return value(d.LeafWeight) != 0 })},
		{"network.classID", value(n.ClassID) != 0},
		{"network.priorities", len(n.Priorities) > 0},
	} {
		if f.set {
			return fmt.Errorf("linux.resources.%s: cgroup v2 has no such limit: %w", f.property, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

func (t *table) memoryV2(m *specs.LinuxMemory) error {
	limit := value(m.Limit)
	switch swap := value(m.Swap); {
	case swap < 0, swap == 0 && limit < 0:
		// As on v1: no limit of memory is no limit of both.
		t.add("memory.swap", "memory", "memory.swap.max", "max").optional = true
	case swap > 0 && limit == 0:
		return fmt.Errorf("linux.resources.memory.swap: %d: needs memory.limit: it is the limit of both together: %w", swap, errdefs.ErrInvalidArgument)
	case swap > 0 && limit < 0:
		// Memory counts for itself, and without limit.
		t.add("memory.swap", "memory", "memory.swap.max", strconv.FormatInt(swap, 10))
	case swap > 0 && swap < limit:
		return fmt.Errorf("linux.resources.memory.swap: %d: is less than memory.limit, %d: %w", swap, limit, errdefs.ErrInvalidArgument)
	case swap > 0:
		// v1 counts memory and swap together, v2 swap alone. Without
		// accounting there is no swap to be forbidden.
		t.add("memory.swap", "memory", "memory.swap.max", strconv.FormatInt(swap-limit, 10)).optional = swap == limit
	}
	if limit != 0 {
		t.add("memory.limit", "memory", "memory.max", maxOr(limit))
	}
	if r := value(m.Reservation); r != 0 {
		t.add("memory.reservation", "memory", "memory.low", maxOr(r))
	}
	return nil
}

func (t *table) cpuV2(c *specs.LinuxCPU) {
	// The library has the curve that runc and crun use today: 2 is 1, 1024 is
	// 100, 262144 is 10000.
	t.sharesAndIdle(c, "cpu.weight", cgroup2.ConvertCPUSharesToCgroupV2Value)
	t.cpuMax(value(c.Quota), value(c.Period))
	if c.Burst != nil {
		t.add("cpu.burst", "cpu", "cpu.max.burst", strconv.FormatUint(*c.Burst, 10)).optional = *c.Burst == 0
	}
	t.text("cpu.cpus", "cpuset", "cpuset.cpus", c.Cpus)
	t.text("cpu.mems", "cpuset", "cpuset.mems", c.Mems)
}

// cpuMax writes "quota period", of which the kernel keeps a period that is not
// given, and we a quota.
func (t *table) cpuMax(quota int64, period uint64) {
	switch {
	case quota != 0 && period != 0:
		t.add("cpu.quota", "cpu", "cpu.max", fmt.Sprintf("%s %d", maxOr(quota), period))
	case quota != 0:
		t.add("cpu.quota", "cpu", "cpu.max", maxOr(quota))
	case period != 0:
		now, _ := t.read("cpu", "cpu.max")
		old, _, _ := strings.Cut(now, " ")
		if old == "" {
			old = "max"
		}
		t.add("cpu.period", "cpu", "cpu.max", fmt.Sprintf("%s %d", old, period))
	}
}

func (t *table) blockIOV2(b *specs.LinuxBlockIO) {
	file, convert := "io.weight", ioWeight
	if t.has("io", "io.bfq.weight") {
		file, convert = "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	}
	if w := value(b.Weight); w != 0 {
		t.add("blockIO.weight", "io", file, strconv.FormatUint(convert(w), 10))
	}
	for i, d := range b.WeightDevice {
		if w := value(d.Weight); w != 0 {
			t.add(fmt.Sprintf("blockIO.weightDevice[%d].weight", i), "io", file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, convert(w)))
		}
	}
	for _, l := range throttles(b) {
		for i, d := range l.devices {
			rate := strconv.FormatUint(d.Rate, 10)
			if d.Rate == 0 {
				rate = "max" // as 0 does on v1
			}
			t.add(fmt.Sprintf("blockIO.%s[%d]", l.property, i), "io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, l.v2, rate))
		}
	}
}

// ioWeight maps the weights of v1, 10 to 1000, to those of io.weight, 1 to
// 10000, as runc and crun do.
func ioWeight(w uint16) uint64 {
	if w < 10 {
		return 1
	}
	return 1 + (uint64(w)-10)*9999/990
}
