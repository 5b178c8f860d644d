package rootfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// IDMapError says which file system can not be idmapped. It is of the class
// errdefs.ErrFailedPrecondition, and unwraps to the errno.
type IDMapError struct {
	Path string // what was to be idmapped
	FS   string // its type, as far as that is known
	Err  error
}

func (e *IDMapError) Error() string {
	return fmt.Sprintf("%q is on a file system of type %s, whose ids this kernel can not map: %v", e.Path, e.FS, e.Err)
}

// Unwrap gives both the errno and the class.
func (e *IDMapError) Unwrap() []error { return []error{e.Err, errdefs.ErrFailedPrecondition} }

// setIDMap maps the ids of a detached mount. It needs Linux 5.12, and a file
// system that knows how.
func setIDMap(mount handle, path string, ns *os.File, recursive bool) error {
	if ns == nil {
		return fmt.Errorf("idmap %q: no user namespace: %w", path, errdefs.ErrInternal)
	}
	var err error
	uerr := using(ns, func(h handle) error {
		err = mountSetattr(mount, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(h)}, recursive)
		return nil
	})
	switch {
	case uerr != nil:
		return uerr
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return &IDMapError{Path: path, FS: typeOf(mount), Err: err}
	case errors.Is(err, unix.EPERM):
		return &IDMapError{Path: path, FS: typeOf(mount), Err: fmt.Errorf("it may be idmapped already: %w", err)}
	}
	return err
}

// Magic numbers that are not in package unix (statfs(2), ceph and ZFS).
const (
	cephMagic = 0x00c36400
	zfsMagic  = 0x2fc12fc1
)

// names of file systems, where those who meet an IDMapError may look for the
// reason.
var fsNames = map[int64]string{
	unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse",
	unix.TMPFS_MAGIC: "tmpfs or devtmpfs", unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs", unix.V9FS_MAGIC: "9p", unix.SMB2_SUPER_MAGIC: "cifs", unix.PROC_SUPER_MAGIC: "proc",
	unix.SYSFS_MAGIC: "sysfs", unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2",
	unix.DEVPTS_SUPER_MAGIC: "devpts", unix.RAMFS_MAGIC: "ramfs", cephMagic: "ceph", zfsMagic: "zfs",
}

func typeOf(h handle) string {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(h), &fs); err != nil {
		return "unknown"
	}
	if name, ok := fsNames[int64(fs.Type)]; ok {
		return name
	}
	return fmt.Sprintf("%#x", fs.Type)
}

// CheckIDMaps finds the bind mounts of the plan that can not be idmapped as
// they are to be, before there is a container. Errors name the JSON path.
func CheckIDMaps(plan *oci.Plan, users map[int]*os.File) error {
	for i := range plan.Mounts {
		m := &plan.Mounts[i]
		if m.IDMap == nil {
			continue
		}
		h, err := cloneBind(m, users[i])
		if err != nil {
			return err
		}
		h.close()
	}
	return nil
}

// cloneBind clones the source of a bind mount, with its ids mapped.
func cloneBind(m *oci.Mount, users *os.File) (handle, error) {
	h, err := clone(unix.AT_FDCWD, m.Source, m.Recursive)
	if err != nil {
		return none, fmt.Errorf("mounts[%d].source: open %q: %w", m.Index, m.Source, err)
	}
	if m.IDMap == nil {
		return h, nil
	}
	if err := setIDMap(h, m.Source, users, m.IDMap.Recursive); err != nil {
		h.close()
		return none, fmt.Errorf("mounts[%d].source: %w", m.Index, err)
	}
	return h, nil
}

// ownerless are file systems whose files have no owners that anybody keeps:
// they are the kernel's.
var ownerless = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEVPTS_SUPER_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true,
	unix.BPF_FS_MAGIC: true, unix.NSFS_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
	unix.BINFMTFS_MAGIC: true, unix.RDTGROUP_SUPER_MAGIC: true, unix.SELINUX_MAGIC: true,
}

// Ownerless says whether what a bind mount shows is the kernel's: a device, or
// part of a file system like proc. There is nothing to idmap in it.
func Ownerless(m specs.Mount) bool {
	var st, dev unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(m.Source, &st) != nil || unix.Statfs(m.Source, &fs) != nil {
		return false // and the mount fails
	}
	switch {
	case ownerless[int64(fs.Type)]:
		return true
	case st.Mode&unix.S_IFMT == unix.S_IFCHR, st.Mode&unix.S_IFMT == unix.S_IFBLK:
		return true
	}
	return unix.Stat("/dev", &dev) == nil && st.Dev == dev.Dev // devtmpfs
}
