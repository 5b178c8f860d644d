package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are the capabilities by number (linux/capability.h). The
// newest is of Linux 5.9, so every kernel that can do the mounts of a
// container (mount_setattr(2), 5.12) has all of them.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// AllCapabilities is every capability that has a name, as 1<<CAP_x.
const AllCapabilities = uint64(1)<<(unix.CAP_LAST_CAP+1) - 1

var capabilityNumbers = func() map[string]int {
	m := make(map[string]int, len(capabilityNames))
	for n, name := range capabilityNames {
		m[name] = n
	}
	return m
}()

// capSets are the five sets of a process, as masks of 1<<CAP_x.
type capSets struct {
	bounding, permitted, effective, inheritable, ambient uint64
}

// capabilitiesOf translates process.capabilities. Without them a process has
// none, as with crun, and with runc before 1.3; containerd always writes them.
//
// A name that is not a capability, and a bit that the kernel would not let be
// set because of another set, are left out with a warning: "Any value which
// cannot be mapped to a relevant kernel interface, or cannot be granted
// otherwise MUST be logged as a warning" (runtime-spec, config.md).
func capabilitiesOf(c *specs.LinuxCapabilities) (s capSets, warnings []string) {
	if c == nil {
		return s, nil
	}
	warn := func(path string, value any, reason string) { warnings = append(warnings, warning(path, value, reason)) }
	read := func(set string, names []string) (mask uint64) {
		for i, name := range names {
			n, ok := capabilityNumbers[name]
			if !ok {
				warn(at("process.capabilities."+set, i), name, "is not a capability, and is ignored")
				continue
			}
			mask |= 1 << n
		}
		return mask
	}
	s.bounding = read("bounding", c.Bounding)
	s.permitted = read("permitted", c.Permitted)
	s.effective = read("effective", c.Effective)
	s.inheritable = read("inheritable", c.Inheritable)
	s.ambient = read("ambient", c.Ambient)
	grant := func(set string, mask *uint64, allowed uint64, needs string) {
		if lost := *mask &^ allowed; lost != 0 {
			warn("process.capabilities."+set, capList(lost), "is not in "+needs+", and is ignored")
			*mask &= allowed
		}
	}
	grant("effective", &s.effective, s.permitted, "permitted")
	grant("inheritable", &s.inheritable, s.bounding, "bounding")
	grant("ambient", &s.ambient, s.permitted&s.inheritable, "permitted and inheritable")
	return s, warnings
}

// within is s without what is not available.
func (s capSets) within(available uint64) capSets {
	s.bounding &= available
	s.permitted &= available
	s.effective &= available
	s.inheritable &= available
	s.ambient &= available
	return s
}

// MissingCapabilities says which capabilities a process asks for that are not
// in available, a mask of 1<<CAP_x: a warning for each that the process has
// to do without (ProcessOptions.Capabilities).
func MissingCapabilities(p *specs.Process, available uint64) (warnings []string) {
	s, _ := capabilitiesOf(p.Capabilities)
	all := s.bounding | s.permitted | s.effective | s.inheritable | s.ambient
	for n, name := range capabilityNames {
		if bit := uint64(1) << n; all&bit != 0 && available&bit == 0 {
			warnings = append(warnings, fmt.Sprintf("process.capabilities: %q can not be granted: the runtime does not have it", name))
		}
	}
	return warnings
}

type capList uint64

func (l capList) String() string {
	var names []string
	for n, name := range capabilityNames {
		if l&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}
