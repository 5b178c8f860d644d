package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ipcSysctls belong to the IPC namespace, as does everything in fs.mqueue
// (ipc_namespaces(7)).
var ipcSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
	"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced",
}

// translateSysctl takes what belongs to a namespace that the container has,
// as runc does, which knows none of the user namespace; everything else is the
// host's.
func translateSysctl(in input, p *Plan) error {
	for _, name := range sortedKeys(in.linux.Sysctl) {
		path := key("linux.sysctl", name)
		file, err := sysctlFile(path, name)
		if err != nil {
			return err
		}
		space, err := p.sysctlNamespace(path, file)
		if err != nil {
			return err
		}
		value := in.linux.Sysctl[name]
		if err := noNUL(path, value); err != nil {
			return err
		}
		table := &p.Sysctl
		if space == specs.UserNamespace {
			table = &p.UserSysctl
		}
		if _, ok := (*table)[file]; ok {
			return invalid(path, nil, "is there twice, as %s", file)
		}
		if *table == nil {
			*table = map[string]string{}
		}
		(*table)[file] = value
	}
	return nil
}

// sysctlFile is the path of a sysctl below /proc/sys. Of a name both forms of
// sysctl(8) are good: net.ipv4.conf.eth0/1.forwarding, where a slash is a dot
// in the path, and net/ipv4/conf/eth0.1/forwarding.
func sysctlFile(path, name string) (string, error) {
	if err := noNUL(path, name); err != nil {
		return "", err
	}
	file := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		file = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	for _, part := range strings.Split(file, "/") {
		if part == "" || part == "." || part == ".." {
			return "", invalid(path, nil, "is not the name of a sysctl")
		}
	}
	return file, nil
}

// sysctlNamespace is the namespace of the container that a sysctl belongs to.
func (p *Plan) sysctlNamespace(path, file string) (specs.LinuxNamespaceType, error) {
	space := sysctlNamespace(file)
	switch {
	case file == "kernel/hostname":
		return "", invalid(path, nil, "is not to be set here: hostname is the property for it")
	case space == "":
		return "", invalid(path, nil, "belongs to no namespace: it would be the host's")
	case !p.has(space):
		return "", invalid(path, nil, "needs a %q namespace: it would be the host's", string(space))
	}
	return space, nil
}

func sysctlNamespace(file string) specs.LinuxNamespaceType {
	switch {
	case strings.HasPrefix(file, "net/"):
		return specs.NetworkNamespace
	case slices.Contains(ipcSysctls, file), strings.HasPrefix(file, "fs/mqueue/"):
		return specs.IPCNamespace
	case file == "kernel/domainname":
		return specs.UTSNamespace
	case strings.HasPrefix(file, "user/"):
		return specs.UserNamespace
	}
	return ""
}

// pingGroups has two group ids, which the kernel takes as those of the writer's
// user namespace (icmp(7)).
const pingGroups = "net/ipv4/ping_group_range"

// SysctlOnHost is the value of a Sysctl for a writer in the host's user
// namespace: ids are mapped. Of a range of ids that is the part, from its first
// on, that the container can have at all.
func (p *Plan) SysctlOnHost(file string) (string, error) {
	value := p.Sysctl[file]
	if p.IDMap.IsZero() || file != pingGroups {
		return value, nil
	}
	low, high, ok := twoIDs(value)
	if !ok {
		return "", invalid(key("linux.sysctl", file), value, "is not two group ids")
	}
	if low > high {
		return value, nil // nobody
	}
	for _, m := range p.IDMap.GIDs {
		if low < m.ContainerID || low-m.ContainerID >= m.Size {
			continue
		}
		last := min(high-m.ContainerID, m.Size-1)
		return fmt.Sprintf("%d %d", m.HostID+(low-m.ContainerID), m.HostID+last), nil
	}
	return "", invalid(key("linux.sysctl", file), value, "starts with an id that is not in linux.gidMappings")
}

func twoIDs(value string) (low, high uint32, ok bool) {
	ids := strings.Fields(value)
	if len(ids) != 2 {
		return 0, 0, false
	}
	l, lerr := strconv.ParseUint(ids[0], 10, 32)
	h, herr := strconv.ParseUint(ids[1], 10, 32)
	return uint32(l), uint32(h), lerr == nil && herr == nil
}
