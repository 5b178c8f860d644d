package oci

import (
	"slices"
	"strings"
)

// Place is where a property of the spec is applied.
type Place string

// The places.
const (
	InConfig    Place = "LXC configuration" // a key of the container's configuration
	Outside     Place = "from outside"      // by the shim, while the helper waits
	InHelper    Place = "helper"            // an operation of the helper
	InShim      Place = "shim"              // what the shim itself reads, or does
	Refused     Place = "refused"           // an error, if it is set
	Unsupported Place = "refused (platform)"
)

// Coverage is what happens with a property of the spec and everything below
// it that has no entry of its own.
type Coverage struct {
	// Path has the names of JSON; [] is any element of an array, {} any
	// value of a map.
	Path  string
	Place Place
	Note  string
}

// FieldCoverage lists every property of the runtime-spec. It is what the
// package does, not what it is meant to do: tests hold it against the spec's
// own types, and against Translate.
func FieldCoverage() []Coverage {
	table := slices.Concat(ownCoverage, resourceCoverage)
	for _, r := range slices.Concat(processRefusals, refusals) {
		place := Refused
		if r.reason == otherPlatform {
			place = Unsupported
		}
		table = append(table, Coverage{r.path, place, ""})
	}
	return table
}

// ownCoverage is all that is applied, but for the resources.
var ownCoverage = []Coverage{
	{"ociVersion", InShim, "any 1.x; a warning if it is newer than the one known"},
	{"annotations", InShim, "given to hooks"},

	{"root.path", Outside, "relative to the bundle"},
	{"root.readonly", Outside, "mount_setattr(2) of the root, at the end"},
	{"hostname", InConfig, "lxc.uts.name; sethostname(2) in a UTS namespace that is joined"},
	{"domainname", Outside, "setdomainname(2) in the UTS namespace"},

	{"mounts[].destination", Outside, "resolved inside the root, never outside of it"},
	{"mounts[].type", Outside, "file system, or nothing for a bind mount"},
	{"mounts[].source", Outside, "of a bind mount relative to the bundle"},
	{"mounts[].options", Outside, "see the table of mount options"},
	{"mounts[].uidMappings", Outside, "mount_setattr(2) with MOUNT_ATTR_IDMAP; bind mounts only"},
	{"mounts[].gidMappings", Outside, "mount_setattr(2) with MOUNT_ATTR_IDMAP; bind mounts only"},

	{"hooks.prestart", InShim, "in the runtime's namespaces, during create, before pivot_root"},
	{"hooks.createRuntime", InShim, "in the runtime's namespaces, during create, before pivot_root"},
	{"hooks.createContainer", InHelper, "in the container's namespaces, before pivot_root, with the host's files and the container's at root.path"},
	{"hooks.startContainer", InHelper, "in the container, as its user, before its process; a failure fails start"},
	{"hooks.poststart", InShim, "in the runtime's namespaces, after start"},
	{"hooks.poststop", InShim, "in the runtime's namespaces, during delete"},

	{"process.terminal", InHelper, "a terminal of the container's devpts"},
	{"process.consoleSize", Outside, "TIOCSWINSZ; without a terminal it is not looked at"},
	{"process.cwd", InHelper, "chdir(2) as root"},
	{"process.env", InHelper, "the last value of a variable counts; HOME is added"},
	{"process.args", InHelper, "looked up with the user's rights, at create"},
	{"process.user.uid", InHelper, "setresuid(2)"},
	{"process.user.gid", InHelper, "setresgid(2)"},
	{"process.user.umask", InHelper, "0022 if it is not set"},
	{"process.user.additionalGids", InHelper, "setgroups(2)"},
	{"process.capabilities", InHelper, "all five sets; what can not be granted is a warning"},
	{"process.rlimits", InHelper, "prlimit(2), as root; from outside in a user namespace"},
	{"process.noNewPrivileges", InHelper, "prctl(2)"},
	{"process.apparmorProfile", InHelper, "/proc/self/attr/apparmor/exec, for the transition at execve; an error where AppArmor is off"},
	{"process.selinuxLabel", InHelper, "/proc/self/attr/exec; an error where SELinux is off"},
	{"process.scheduler", Outside, "sched_setattr(2)"},
	{"process.ioPriority", Outside, "ioprio_set(2)"},
	{"process.execCPUAffinity", InHelper, "sched_setaffinity(2), of an exec, before and after it joins the control group"},
	{"process.oomScoreAdj", Outside, "/proc/PID/oom_score_adj"},

	{"linux.intelRdt", Outside, "groups of resctrl; an error where none is mounted"},
	{"linux.netDevices", Outside, "netlink; returned when the container has ended, unless its network namespace is another's"},
	{"linux.namespaces", InConfig, "lxc.namespace.clone and lxc.namespace.share; mount always new; cgroup and time by the helper"},
	{"linux.uidMappings", InConfig, "lxc.idmap; id 0 must be mapped"},
	{"linux.gidMappings", InConfig, "lxc.idmap; id 0 must be mapped"},
	{"linux.sysctl", Outside, "of the container's network, IPC, UTS and user namespaces only; the last by the helper"},
	{"linux.cgroupsPath", Outside, "the group, in every hierarchy, is made before there is a process; systemd's form: a scope, and the group below it. On v2 it is the user's of a container with a cgroup namespace that it may write to"},
	{"linux.devices", Outside, "mknod(2); bind mounts in a user namespace"},
	{"linux.seccomp", InHelper, "compiled to BPF; the shim sends the listener of SCMP_ACT_NOTIFY to listenerPath"},
	{"linux.rootfsPropagation", Outside, "mount_setattr(2) of the root"},
	{"linux.maskedPaths", Outside, "an empty tmpfs, or /dev/null"},
	{"linux.readonlyPaths", Outside, "mount_setattr(2) of a clone"},
	{"linux.timeOffsets", Outside, "/proc/PID/timens_offsets, before the helper enters the new time namespace"},
	{"linux.memoryPolicy", InHelper, "set_mempolicy(2), of the process and of execs"},
	{"linux.mountLabel", Outside, "option context of the file systems that are made; an error where SELinux is off"},
	{"linux.personality", InHelper, "personality(2)"},
}

// resourceCoverage has files of cgroup v1; and of v2, or that it has none: the
// property is an error there.
var resourceCoverage = []Coverage{
	{"linux.resources.devices", Outside, "devices.allow and devices.deny; a BPF program"},
	{"linux.resources.memory.limit", Outside, "memory.limit_in_bytes; memory.max"},
	{"linux.resources.memory.reservation", Outside, "memory.soft_limit_in_bytes; memory.low"},
	{"linux.resources.memory.swap", Outside, "memory.memsw.limit_in_bytes; memory.swap.max, without the memory"},
	{"linux.resources.memory.kernel", Outside, "an error: kernels take it without effect, or not at all"},
	{"linux.resources.memory.kernelTCP", Outside, "memory.kmem.tcp.limit_in_bytes; none"},
	{"linux.resources.memory.swappiness", Outside, "memory.swappiness; none"},
	{"linux.resources.memory.disableOOMKiller", Outside, "memory.oom_control; none"},
	{"linux.resources.memory.useHierarchy", Outside, "memory.use_hierarchy; always so"},
	{"linux.resources.memory.checkBeforeUpdate", Outside, "a limit below the usage is refused"},
	{"linux.resources.cpu.shares", Outside, "cpu.shares, from 2 to 262144; cpu.weight, by the curve of runc and crun"},
	{"linux.resources.cpu.quota", Outside, "cpu.cfs_quota_us; cpu.max"},
	{"linux.resources.cpu.burst", Outside, "cpu.cfs_burst_us; cpu.max.burst"},
	{"linux.resources.cpu.period", Outside, "cpu.cfs_period_us; cpu.max"},
	{"linux.resources.cpu.realtimeRuntime", Outside, "cpu.rt_runtime_us; none"},
	{"linux.resources.cpu.realtimePeriod", Outside, "cpu.rt_period_us; none"},
	{"linux.resources.cpu.cpus", Outside, "cpuset.cpus"},
	{"linux.resources.cpu.mems", Outside, "cpuset.mems"},
	{"linux.resources.cpu.idle", Outside, "cpu.idle"},
	{"linux.resources.pids.limit", Outside, "pids.max"},
	{"linux.resources.blockIO.weight", Outside, "blkio.bfq.weight or blkio.weight; io.bfq.weight or io.weight"},
	{"linux.resources.blockIO.leafWeight", Outside, "blkio.leaf_weight; none"},
	{"linux.resources.blockIO.weightDevice[].major", Outside, "as of the weight"},
	{"linux.resources.blockIO.weightDevice[].minor", Outside, "as of the weight"},
	{"linux.resources.blockIO.weightDevice[].weight", Outside, "blkio.bfq.weight_device or blkio.weight_device; io.bfq.weight or io.weight"},
	{"linux.resources.blockIO.weightDevice[].leafWeight", Outside, "blkio.leaf_weight_device; none"},
	{"linux.resources.blockIO.throttleReadBpsDevice", Outside, "blkio.throttle.read_bps_device; io.max"},
	{"linux.resources.blockIO.throttleWriteBpsDevice", Outside, "blkio.throttle.write_bps_device; io.max"},
	{"linux.resources.blockIO.throttleReadIOPSDevice", Outside, "blkio.throttle.read_iops_device; io.max"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice", Outside, "blkio.throttle.write_iops_device; io.max"},
	{"linux.resources.hugepageLimits", Outside, "hugetlb.SIZE.limit_in_bytes and .rsvd; hugetlb.SIZE.max and .rsvd"},
	{"linux.resources.network.classID", Outside, "net_cls.classid; none"},
	{"linux.resources.network.priorities", Outside, "net_prio.ifpriomap; none"},
	{"linux.resources.rdma", Outside, "rdma.max"},
	{"linux.resources.unified", Outside, "none; verbatim"},
}

// covers says whether an entry at path is about field.
func covers(path, field string) bool {
	rest, ok := strings.CutPrefix(field, path)
	return ok && (rest == "" || strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "[]") || strings.HasPrefix(rest, "{}"))
}
