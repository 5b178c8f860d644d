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
	Sysctl        map[string]string
	Domainname    string

	// Namespaces of the spec, by type. A type that is missing is the host's.
	Namespaces map[specs.LinuxNamespaceType]Namespace
	// CgroupsPath is linux.cgroupsPath as given, in either form; may be "".
	CgroupsPath string
	// Resources of the spec with the device rules completed: what every OCI
	// runtime allows (null, zero, full, random, urandom, tty, console, ptmx,
	// pts/*, mknod of anything) follows the rules of the spec.
	Resources *specs.LinuxResources

	Process *specs.Process // validated; ProcessOps translates it
	Seccomp *specs.LinuxSeccomp
	Hooks   *specs.Hooks
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

	// Propagation in the order given, each MS_PRIVATE, MS_SLAVE, MS_SHARED
	// or MS_UNBINDABLE, with MS_REC if recursive.
	Propagation []uint64

	// Data holds the options for the file system (fsconfig(2)).
	Data []FSOption

	// TmpCopyUp copies what the image has at Destination into a tmpfs.
	TmpCopyUp bool
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
