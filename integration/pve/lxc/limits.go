package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// Limit is one file of a container's cgroup.
type Limit struct {
	Controller string // of v1: memory, cpu
	File       string
	Value      string
}

// Key is LXC's configuration key for it.
func (l Limit) Key() string {
	if Unified() {
		return "lxc.cgroup2." + l.File
	}
	return "lxc.cgroup." + l.File
}

// Limits are what the configuration's memory, swap, cpulimit and cpuunits
// give, in the order in which they are written.
func Limits(c *ctconf.Conf) []Limit {
	memory := number(c.Get("memory", "512")) * (1 << 20)
	swap := number(c.Get("swap", "0")) * (1 << 20)
	if Unified() {
		return unifiedLimits(c, memory, swap)
	}
	limits := []Limit{
		{"memory", "memory.limit_in_bytes", fmt.Sprint(memory)},
		{"memory", "memory.memsw.limit_in_bytes", fmt.Sprint(memory + swap)},
	}
	quota := "-1"
	if cpus, err := strconv.ParseFloat(c.Get("cpulimit", "0"), 64); err == nil && cpus > 0 {
		quota = strconv.Itoa(int(cpus * 100000))
	}
	limits = append(limits, Limit{"cpu", "cpu.cfs_period_us", "100000"}, Limit{"cpu", "cpu.cfs_quota_us", quota})
	return append(limits, Limit{"cpu", "cpu.shares", c.Get("cpuunits", "1024")})
}

func unifiedLimits(c *ctconf.Conf, memory, swap int) []Limit {
	limits := []Limit{
		{"memory", "memory.max", fmt.Sprint(memory)},
		{"memory", "memory.high", fmt.Sprint(memory / 1024 * 1016)},
		{"memory", "memory.swap.max", fmt.Sprint(swap)},
	}
	quota := "max"
	if cpus, err := strconv.ParseFloat(c.Get("cpulimit", "0"), 64); err == nil && cpus > 0 {
		quota = strconv.Itoa(int(cpus * 100000))
	}
	limits = append(limits, Limit{"cpu", "cpu.max", quota + " 100000"})
	return append(limits, Limit{"cpu", "cpu.weight", strconv.Itoa(min(10000, max(1, number(c.Get("cpuunits", "100")))))})
}

func number(v string) int {
	n, _ := strconv.Atoi(v) // the schema has checked it
	return n
}

// Apply writes limits into the cgroup of a running container. v1 refuses a
// limit that is above the one which includes it: so the order depends.
func Apply(vmid int, limits []Limit) error {
	var failed []Limit
	for round := range 2 {
		todo := limits
		if round > 0 {
			todo = failed
		}
		failed = nil
		var errs []error
		for _, l := range todo {
			if err := l.write(vmid); err != nil {
				failed, errs = append(failed, l), append(errs, err)
			}
		}
		if len(failed) == 0 {
			return nil
		}
		if round > 0 {
			return errors.Join(errs...)
		}
	}
	return nil
}

func (l Limit) write(vmid int) error {
	group, err := CgroupPath(vmid, l.Controller)
	if err != nil {
		return err
	}
	base := "/sys/fs/cgroup"
	if !Unified() {
		base = filepath.Join(base, l.Controller)
	}
	path := filepath.Join(base, group, l.File)
	err = os.WriteFile(path, []byte(l.Value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return host.Dief("cannot access cgroup file '%s'", path)
	}
	return err
}

// CgroupPath is where the limits of a running container are.
func CgroupPath(vmid int, controller string) (string, error) {
	path, err := ask(vmid, getLimitCgroup, controller)
	if err != nil || path == "" {
		return fmt.Sprintf("lxc/%d", vmid), nil // as PVE::LXC::CGroup assumes
	}
	return path, nil
}

// Read returns a number from a file of a running container's cgroup.
func Read(vmid int, controller, file string) (int64, error) {
	group, err := CgroupPath(vmid, controller)
	if err != nil {
		return 0, err
	}
	base := "/sys/fs/cgroup"
	if !Unified() {
		base = filepath.Join(base, controller)
	}
	data, err := os.ReadFile(filepath.Join(base, group, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// CPUs is the number that status shows.
func CPUs(c *ctconf.Conf) string {
	if v := c.Get("cores", ""); v != "" {
		return v
	}
	if v := c.Get("cpulimit", "0"); v != "0" {
		return v
	}
	return strconv.Itoa(runtime.NumCPU())
}
