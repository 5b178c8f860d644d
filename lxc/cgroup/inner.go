package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// OfLXC returns the group that LXC made for a container, by its first process.
// Such a group has two levels: on the outer one are the limits, where Proxmox
// sets and reads them; the processes are in the inner one, by the name that
// lxc.cgroup.dir.container.inner gives, which is the root of what the container
// sees. LXC removes both when the container has ended: see Keep.
func OfLXC(pid int, inner string) (*Group, error) {
	g, err := Of(pid)
	if err != nil {
		return nil, err
	}
	g.inner = inner
	var places []place
	for _, p := range g.places {
		// LXC may have left a hierarchy alone.
		if filepath.Base(p.dir) == inner {
			p.dir = filepath.Dir(p.dir)
			places = append(places, p)
		}
	}
	if g.places = places; len(places) == 0 {
		return nil, fmt.Errorf("control group of process %d: is not named %s anywhere: %w", pid, inner, errdefs.ErrFailedPrecondition)
	}
	return g, nil
}

// outer are the v1 controllers whose limits go to the outer of two levels. The
// others' do not reach the groups below it (blkio, net_cls), or can not be
// changed above a group that has more (cpuset, devices).
var outer = []string{"memory", "cpu", "pids", "hugetlb", "rdma", "freezer", "cpuacct"}

// limitDir is the directory for the limits of a controller.
func (g *Group) limitDir(controller string) (string, error) {
	dir, err := g.dir(controller)
	if err == nil && !g.unified && !slices.Contains(outer, controller) {
		dir = filepath.Join(dir, g.inner)
	}
	return dir, err
}

// LiftOthers lifts the limits that Proxmox sets with each one of memory that an operator
// sets, and that would be in the way of a higher one: of memory.high, a bit below
// (v2), and of memory and swap together (v1). Those that own has are the container's.
func (g *Group) LiftOthers(own *specs.LinuxResources) error {
	s := setting{property: "memory", controller: "memory", file: memoryHigh, value: "max", optional: true}
	has := own.Unified[memoryHigh] != ""
	if !g.unified {
		s.file, s.value = "memory.memsw.limit_in_bytes", "-1"
		has = own.Memory != nil && own.Memory.Swap != nil
	}
	if has {
		return nil
	}
	return g.setAll([]setting{s})
}

const memoryHigh = "memory.high"

// Unlimit lifts the limits of memory, which Proxmox sets in any case: memory
// from `memory:` of the CT, memory.high a bit below.
func (g *Group) Unlimit() error {
	settings := []setting{
		{controller: "memory", file: "memory.swap.max", value: "max"},
		{controller: "memory", file: memoryHigh, value: "max"},
		{controller: "memory", file: "memory.max", value: "max"},
	}
	if !g.unified {
		settings = []setting{
			{controller: "memory", file: "memory.memsw.limit_in_bytes", value: "-1"},
			{controller: "memory", file: "memory.limit_in_bytes", value: "-1"},
		}
	}
	for i := range settings {
		settings[i].property, settings[i].optional = "memory", true
	}
	return g.setAll(settings)
}

// killsBelow sums the processes that were killed in a v1 group and below it:
// v1 counts in each group for itself.
func killsBelow(dir string) (sum uint64, err error) {
	own, err := os.ReadFile(filepath.Join(dir, oomControl))
	if err != nil {
		return 0, err
	}
	if sum, err = count(own, oomKills); err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == dir {
			return ignoreGone(err)
		}
		text, err := os.ReadFile(filepath.Join(path, oomControl))
		if err != nil {
			return ignoreGone(err)
		}
		n, err := count(text, oomKills)
		sum += n
		return err
	})
	return sum, err
}
