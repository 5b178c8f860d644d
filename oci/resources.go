package oci

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func translateResources(in input, p *Plan) error {
	const path = "linux.resources"
	r := specs.LinuxResources{}
	if in.linux.Resources != nil {
		r = *in.linux.Resources
	}
	if err := CheckResources(path, &r); err != nil {
		return err
	}
	if m := r.Memory; m != nil && value(m.Swap) > 0 && value(m.Limit) <= 0 {
		return invalid(path+".memory.swap", *m.Swap, "needs a memory.limit: it is the limit of memory and swap together")
	}
	r.Devices = deviceRules(in, r.Devices)
	p.Resources = &r
	return nil
}

// CheckResources checks what a cgroup is to be given, at create or by an
// update; path is how errors, of type *FieldError, name r. Whether the kernel
// has the controllers is not known here.
func CheckResources(path string, r *specs.LinuxResources) error {
	for _, check := range []func(string, *specs.LinuxResources) error{
		func(p string, r *specs.LinuxResources) error { return checkDeviceRules(p+".devices", r.Devices) },
		checkMemory, checkCPU, checkPids, checkBlockIO, checkHugepages, checkNetwork, checkRdma, checkUnified,
	} {
		if err := check(path, r); err != nil {
			return err
		}
	}
	return nil
}

// value of an optional property; 0, as clients write it, is "not set".
func value[T int64 | uint64 | uint16](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

const maxSwappiness = 100

func checkMemory(path string, r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	path += ".memory"
	for _, f := range []struct {
		name string
		v    *int64
	}{
		{".limit", m.Limit},
		{".reservation", m.Reservation},
		{".swap", m.Swap},
		//lint:ignore SA1019 deprecated, but it may be there
		{".kernel", m.Kernel},
		{".kernelTCP", m.KernelTCP},
	} {
		if value(f.v) < -1 {
			return invalid(path+f.name, *f.v, "is neither a number of bytes nor -1, for no limit")
		}
	}
	if limit, swap := value(m.Limit), value(m.Swap); limit > 0 && swap > 0 && swap < limit {
		return invalid(path+".swap", swap, "is less than the memory limit, %d: it is the limit of both together", limit)
	}
	if value(m.Swappiness) > maxSwappiness {
		return invalid(path+".swappiness", *m.Swappiness, "is not between 0 and %d", maxSwappiness)
	}
	return nil
}

// Bounds of the CPU controllers (kernel/sched/core.c), times in microseconds.
const (
	minQuota             = 1000
	minPeriod, maxPeriod = 1000, 1000000
)

func checkCPU(path string, r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	path += ".cpu"
	quota := value(c.Quota)
	switch period := value(c.Period); {
	case quota < -1 || quota > 0 && quota < minQuota:
		return invalid(path+".quota", quota, "is neither %d microseconds or more nor -1, for no limit", minQuota)
	case period != 0 && (period < minPeriod || period > maxPeriod):
		return invalid(path+".period", period, "is not between %d and %d microseconds", minPeriod, maxPeriod)
	case quota > 0 && value(c.Burst) > uint64(quota):
		return invalid(path+".burst", *c.Burst, "is more than the quota, %d", quota)
	case c.Idle != nil && *c.Idle != 0 && *c.Idle != 1:
		return invalid(path+".idle", *c.Idle, "is not one of 0, 1")
	case value(c.RealtimeRuntime) < -1:
		return invalid(path+".realtimeRuntime", *c.RealtimeRuntime, "is neither a number of microseconds nor -1, for no limit")
	case value(c.RealtimePeriod) > math.MaxInt64:
		return invalid(path+".realtimePeriod", *c.RealtimePeriod, "is too much")
	}
	if err := checkList(path+".cpus", c.Cpus); err != nil {
		return err
	}
	return checkList(path+".mems", c.Mems)
}

func checkPids(path string, r *specs.LinuxResources) error {
	if r.Pids != nil && value(r.Pids.Limit) < -1 {
		return invalid(path+".pids.limit", *r.Pids.Limit, "is neither a number of tasks nor -1, for no limit")
	}
	return nil
}

// pageSize is the part of a file name that a size of huge pages is.
var pageSize = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[1-9][0-9]{0,15}[KMGTPE]B$`) })

func checkHugepages(path string, r *specs.LinuxResources) error {
	seen := map[string]bool{}
	for i, l := range r.HugepageLimits {
		p := at(path+".hugepageLimits", i) + ".pageSize"
		if !pageSize().MatchString(l.Pagesize) {
			return invalid(p, l.Pagesize, "is not a page size, as in 64KB, 2MB or 1GB")
		}
		if seen[l.Pagesize] {
			return invalid(p, l.Pagesize, "is there twice")
		}
		seen[l.Pagesize] = true
	}
	return nil
}

func checkNetwork(path string, r *specs.LinuxResources) error {
	if r.Network == nil {
		return nil
	}
	for i, p := range r.Network.Priorities {
		if !isInterface(p.Name) {
			return invalid(at(path+".network.priorities", i)+".name", p.Name, "is not the name of a network interface")
		}
	}
	return nil
}

// isName says whether s can be one word in a file of a cgroup, or the name of
// one.
func isName(s string) bool {
	return s != "" && !strings.ContainsAny(s, "/ ") && !strings.ContainsFunc(s, isControl)
}

// maxInterface is the length of the name of a network interface (IFNAMSIZ is
// with the NUL byte).
const maxInterface = 15

func isInterface(name string) bool {
	return isName(name) && name != "." && name != ".." && len(name) <= maxInterface && !strings.Contains(name, ":")
}

func checkRdma(path string, r *specs.LinuxResources) error {
	for _, name := range sortedKeys(r.Rdma) {
		p := key(path+".rdma", name)
		if !isName(name) {
			return invalid(p, nil, "is not the name of a device")
		}
		if l := r.Rdma[name]; l.HcaHandles == nil && l.HcaObjects == nil {
			return invalid(p, nil, "has neither hcaHandles nor hcaObjects")
		}
	}
	return nil
}

// ownFiles of a cgroup decide where processes are, and whether they run.
var ownFiles = []string{
	"cgroup.freeze", "cgroup.kill", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "cgroup.type",
}

// checkUnified refuses keys that are no files of the cgroup itself.
func checkUnified(path string, r *specs.LinuxResources) error {
	for _, file := range sortedKeys(r.Unified) {
		p := key(path+".unified", file)
		if !strings.Contains(strings.Trim(file, "."), ".") || !isName(file) {
			return invalid(p, nil, "is not the name of a file of a cgroup, as in memory.high")
		}
		if slices.Contains(ownFiles, file) {
			return invalid(p, nil, "is for the runtime alone to write")
		}
		if err := noNUL(p, r.Unified[file]); err != nil {
			return err
		}
	}
	return nil
}
