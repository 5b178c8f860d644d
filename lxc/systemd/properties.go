package systemd

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Versions of systemd that brought properties (its NEWS).
const (
	hasQuotaPeriod = 242
	hasAllowedCPUs = 244
	hasIdle        = 252
)

var digits = regexp.MustCompile(`\d+`)

// version of systemd, 0 if it does not say; "257 (257.9-1~deb13u1)" is 257.
func version(conn *systemd.Conn) int {
	text, err := conn.GetManagerProperty("Version")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(digits.FindString(text))
	return n
}

// properties are those of r that a unit has (systemd.resource-control(5)). They
// are what counts between the unit and its neighbours, and what systemctl
// shows; the group below has every limit of r as well.
func properties(r *specs.LinuxResources, unified bool, version int) ([]systemd.Property, error) {
	var l limits
	if r == nil {
		return nil, nil
	}
	l.memory(r.Memory, unified)
	if r.Pids != nil && r.Pids.Limit != nil {
		l.number("TasksMax", max(1, noLimit(*r.Pids.Limit))) // systemd takes no 0
	}
	if r.CPU != nil {
		if err := l.cpu(r.CPU, unified, version); err != nil {
			return nil, err
		}
	}
	return l, nil
}

type limits []systemd.Property

func (l *limits) number(name string, value uint64) {
	*l = append(*l, systemd.Property{Name: name, Value: dbus.MakeVariant(value)})
}

// noLimit turns -1 into systemd's infinity.
func noLimit(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

func set(n *int64) bool { return n != nil && *n != 0 }

func (l *limits) memory(m *specs.LinuxMemory, unified bool) {
	if m == nil {
		return
	}
	if !unified {
		if set(m.Limit) {
			l.number("MemoryLimit", noLimit(*m.Limit))
		}
		return
	}
	if set(m.Limit) {
		l.number("MemoryMax", noLimit(*m.Limit))
	}
	if set(m.Reservation) {
		l.number("MemoryLow", noLimit(*m.Reservation))
	}
	switch {
	case set(m.Swap) && *m.Swap < 0, set(m.Limit) && *m.Limit < 0 && !set(m.Swap):
		l.number("MemorySwapMax", math.MaxUint64)
	case set(m.Swap) && set(m.Limit) && *m.Limit > 0 && *m.Swap >= *m.Limit:
		l.number("MemorySwapMax", uint64(*m.Swap-*m.Limit))
	}
}

const defaultPeriod = 100000 // of the kernel, in microseconds

func (l *limits) cpu(c *specs.LinuxCPU, unified bool, version int) error {
	switch idle := c.Idle != nil && *c.Idle == 1; {
	case idle && unified && version >= hasIdle:
		l.number("CPUWeight", 0)
	case c.Shares != nil && *c.Shares != 0 && unified:
		l.number("CPUWeight", cgroup2.ConvertCPUSharesToCgroupV2Value(*c.Shares))
	case c.Shares != nil && *c.Shares != 0:
		l.number("CPUShares", *c.Shares)
	}
	l.quota(c, version)
	if !unified || version < hasAllowedCPUs {
		return nil
	}
	for _, s := range []struct{ name, path, list string }{
		{"AllowedCPUs", "linux.resources.cpu.cpus", c.Cpus}, {"AllowedMemoryNodes", "linux.resources.cpu.mems", c.Mems},
	} {
		if s.list == "" {
			continue
		}
		mask, err := bitmask(s.list)
		if err != nil {
			return fmt.Errorf("%s: %q: %w", s.path, s.list, err)
		}
		*l = append(*l, systemd.Property{Name: s.name, Value: dbus.MakeVariant(mask)})
	}
	return nil
}

// quota is per second, in steps of a percent of a CPU: systemd keeps no finer
// ones. It is rounded up, as by runc; the group below has the exact one.
func (l *limits) quota(c *specs.LinuxCPU, version int) {
	period := uint64(defaultPeriod)
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
		if version >= hasQuotaPeriod {
			l.number("CPUQuotaPeriodUSec", period)
		}
	}
	if !set(c.Quota) {
		return
	}
	if *c.Quota < 0 {
		l.number("CPUQuotaPerSecUSec", math.MaxUint64)
		return
	}
	const percent = 10000
	perSecond := uint64(*c.Quota) * 1000000 / period
	l.number("CPUQuotaPerSecUSec", (perSecond+percent-1)/percent*percent)
}

// maxCPU bounds what a list makes us allocate.
const maxCPU = 1 << 16

// bitmask is a list as in 0-3,7 with the lowest numbers in the first byte.
func bitmask(list string) ([]byte, error) {
	var mask []byte
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil || to < from || to >= maxCPU {
			return nil, fmt.Errorf("not a list of numbers, as in 0-3,7: %w", errdefs.ErrInvalidArgument)
		}
		for n := from; n <= to; n++ {
			for uint64(len(mask)) <= n/8 {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask, nil
}
