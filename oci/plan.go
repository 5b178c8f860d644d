package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// Plan is a bundle translated for LXC: what LXC itself is configured with
// (Config), what is done from outside while the helper waits (Root to
// Sysctl, Resources), and the process that the helper becomes (Process).
// Every value in it has been validated.
type Plan struct {
	// Config holds the LXC keys that follow from the spec: namespaces,
	// host name, loopback. The host adds its own (rootfs, init, cgroup).
	Config []lxcconf.Line

	Root          Root
	Mounts        []Mount  // in the order of the spec
	Devices       []Device // the default nodes of an OCI /dev, then linux.devices
	MaskedPaths   []string // absolute and clean
	ReadonlyPaths []string // absolute and clean
	NetDevices    []NetDevice
	IntelRdt      *specs.LinuxIntelRdt
	// Sysctl has the values by path below /proc/sys, as in
	// net/ipv4/ip_forward. Each belongs to a namespace of the container.
	Sysctl map[string]string
	// UserSysctl has those of the user namespace, user/max_…, likewise. Only
	// a process in the namespace sees them.
	UserSysctl map[string]string
	// Hostname and Domainname, "" for what the UTS namespace has. LXC sets
	// the host name in a new namespace (lxc.uts.name), but not in one that
	// is joined.
	Hostname, Domainname string

	// BoundDev says that a bind mount covers /dev: it has its own ptmx,
	// console and links, and Devices has nothing below it.
	BoundDev bool

	// Namespaces of the spec, by type. A type that is missing is the host's.
	Namespaces map[specs.LinuxNamespaceType]Namespace
	// IDMap is the mapping of the container's user namespace; the zero value
	// if it has none, or (until SetIDMap) joins one and does not say it.
	IDMap IDMap
	// CgroupsPath is linux.cgroupsPath as given, in either form; may be "".
	CgroupsPath string
	// Resources of the spec with the device rules completed: they start from
	// a rule for everything, and end with what every OCI runtime allows (null,
	// zero, full, random, urandom, tty, ptmx, pts/*, net/tun, mknod of
	// anything). Never nil.
	Resources *specs.LinuxResources

	Process *specs.Process // validated; ProcessOps translates it
	// MemoryPolicy of every process, nil to leave it.
	MemoryPolicy *MemoryPolicy
	// TimeOffsets are for /proc/PID/timens_offsets, before there is a process
	// in the new time namespace; "" for none.
	TimeOffsets string
	// MountLabel is linux.mountLabel; Mounts have it already.
	MountLabel string

	// Personality is the execution domain of personality(2), nil to leave it.
	Personality *uint32
	Seccomp     *specs.LinuxSeccomp
	// Filter is Seccomp, compiled; nil for no filter.
	Filter *Filter
	Hooks  *specs.Hooks

	// Warnings say what is not done that the spec asks for, where the
	// runtime-spec itself wants a warning and no error.
	Warnings []string
}

// Filter is a seccomp program and the flags to load it with.
type Filter struct {
	Program []byte // an array of struct sock_filter
	Flags   uint32 // SECCOMP_FILTER_FLAG_

	// ListenerPath is the socket that gets the filter's listener, with
	// ListenerMetadata; "" if the filter has none.
	ListenerPath, ListenerMetadata string
}

// Namespace is one entry of linux.namespaces.
type Namespace struct {
	// Path of the namespace to join, "" for a new one.
	Path string
}

// Root is the container's root file system.
type Root struct {
	// Path is absolute; a relative root.path is taken from the bundle.
	Path     string
	Readonly bool
	// Propagation is linux.rootfsPropagation as MS_PRIVATE, MS_SLAVE,
	// MS_SHARED or MS_UNBINDABLE, with MS_REC if recursive; 0 if unset.
	Propagation uint64
}

// MountKind says how a mount comes into being.
type MountKind int

const (
	// MountBind clones an existing tree (open_tree(2)).
	MountBind MountKind = iota
	// MountFS is a new superblock (fsopen(2), fsmount(2)).
	MountFS
	// MountProc is the procfs that LXC mounted in the container's pid
	// namespace, cloned: a procfs can not be made from outside before
	// Linux 6.17.
	MountProc
	// MountCgroup is the container's view of the host's cgroup hierarchies.
	MountCgroup
	// MountRemount changes the flags of what is already at the destination.
	MountRemount
)

// Mount is one entry of spec.mounts, with its options sorted out.
type Mount struct {
	// Index in spec.mounts, so that an error can say mounts[3].source.
	Index       int
	Kind        MountKind
	Destination string // absolute and clean, not yet resolved in the rootfs
	Type        string // file system type of MountFS
	Source      string // absolute for MountBind, else as given

	Recursive bool // rbind

	// Set and Clear are MOUNT_ATTR_* of mount_setattr(2) for the mount
	// itself, RecSet and RecClear (rro, rnosuid, ...) for the whole tree.
	Set, Clear       uint64
	RecSet, RecClear uint64
	// Drop is what a bind mount does not keep of the mount that it shows, if
	// the kernel lets that be cleared: once an option is about one attribute,
	// those that have none do not hold, as with runc.
	Drop uint64

	// Propagation in the order given, each MS_PRIVATE, MS_SLAVE, MS_SHARED
	// or MS_UNBINDABLE, with MS_REC if recursive.
	Propagation []uint64

	// Data holds the options for the file system (fsconfig(2)).
	Data []FSOption

	// IDMap maps the ids of a bind mount, nil for none.
	IDMap *MountIDMap

	// TmpCopyUp copies what the image has at Destination into a tmpfs.
	TmpCopyUp bool
}

// MountIDMap is how the ids of a mount are mapped.
type MountIDMap struct {
	Map       IDMap // the zero value is that of the container's user namespace
	Recursive bool  // the mounts below it as well
}

// FSOption is one option of a file system: a flag, or key=value.
type FSOption struct {
	Key   string
	Value string
	Flag  bool // no value: FSCONFIG_SET_FLAG
}

// Device is a device node in the container.
type Device struct {
	Path         string // absolute
	Type         rune   // 'c', 'b', or 'p'
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

var mountKinds = [...]string{"bind", "fs", "proc", "cgroup", "remount"}

func (k MountKind) String() string { return mountKinds[k] }
