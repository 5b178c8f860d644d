package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// contextTypes are the file systems that belong to the user namespace of who
// opens their context; the others belong to that of another namespace of the
// container, or can only be the host's.
var contextTypes = []string{"bpf", "devpts", "ramfs", "tmpfs"}

// Contexts are the places in plan.Mounts of the file systems whose contexts
// have to come from the container's user namespace (Target.Contexts), with
// their types.
func Contexts(plan *oci.Plan) map[int]string {
	types := map[int]string{}
	if plan.IDMap.IsZero() {
		return types
	}
	for i := range plan.Mounts {
		if m := &plan.Mounts[i]; needsContext(m) {
			types[i] = m.Type
		}
	}
	return types
}

func needsContext(m *oci.Mount) bool {
	return m.Kind == oci.MountFS && slices.Contains(contextTypes, m.Type) && !namesHostPath(m)
}

// hostOptions are the options of a file system of the user namespace, with
// the ids of the host: the kernel takes them from the thread's.
func hostOptions(m *oci.Mount, ids oci.IDMap) ([]oci.FSOption, error) {
	options := slices.Clone(m.Data)
	for i, o := range options {
		host := ids.HostUID
		if o.Key == "gid" {
			host = ids.HostGID
		}
		id, err := strconv.ParseUint(o.Value, 0, 32)
		if o.Key != "uid" && o.Key != "gid" || err != nil { // the kernel says so
			continue
		}
		mapped, ok := host(uint32(id))
		if !ok {
			return nil, fmt.Errorf("option %q: the id is not mapped in the user namespace: %w", o.Key+"="+o.Value, errdefs.ErrInvalidArgument)
		}
		options[i].Value = strconv.FormatUint(uint64(mapped), 10)
	}
	return options, nil
}

// secbitNoSetuidFixup is SECBIT_NO_SETUID_FIXUP (capabilities(7)).
const secbitNoSetuidFixup = 1 << 2

// actAsRootOf makes the thread create files as the root of a user namespace:
// the host's has no id in its file systems, which is EOVERFLOW. The thread
// keeps its capabilities, and ends with its work (onThread).
func actAsRootOf(ids oci.IDMap) error {
	if ids.IsZero() {
		return nil
	}
	uid, gid, err := rootOf(ids)
	if err != nil {
		return err
	}
	if err := keepCapabilities(); err != nil {
		return err
	}
	for _, f := range []struct {
		name   string
		change func(int) (int, error)
		id     uint32
	}{{"setfsgid", unix.SetfsgidRetGid, gid}, {"setfsuid", unix.SetfsuidRetUid, uid}} {
		_, _ = f.change(int(f.id)) // returns the one before, and no error
		if now, _ := f.change(-1); now != int(f.id) {
			return fmt.Errorf("%s %d: %w", f.name, f.id, unix.EPERM)
		}
	}
	return nil
}

func rootOf(ids oci.IDMap) (uid, gid uint32, err error) {
	uid, okUID := ids.HostUID(0)
	gid, okGID := ids.HostGID(0)
	if !okUID || !okGID {
		return 0, 0, fmt.Errorf("the user namespace maps no root: %w", errdefs.ErrInvalidArgument)
	}
	return uid, gid, nil
}

func keepCapabilities() error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("PR_GET_SECUREBITS", err)
	}
	err = unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|secbitNoSetuidFixup), 0, 0, 0)
	return os.NewSyscallError("PR_SET_SECUREBITS", err)
}

// asEffectiveRootOf calls f with the effective user of a user namespace's
// root, by whom the kernel decides about the sysctls of an IPC namespace.
func asEffectiveRootOf(ids oci.IDMap, f func() error) error {
	uid, _, err := rootOf(ids)
	if err == nil {
		err = keepCapabilities()
	}
	if err == nil {
		err = seteuid(uid)
	}
	if err != nil {
		return err
	}
	return errors.Join(f(), seteuid(0))
}

// seteuid is of this thread only; that of package unix changes all.
func seteuid(uid uint32) error {
	const unchanged = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}

// makeNodes makes the device nodes of a container in a user namespace, whose
// own file systems can have none that work: they are made on one of the host,
// and bound from there.
func (b *builder) makeNodes() error {
	dir, err := openat(unix.AT_FDCWD, baseDev, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open %s of the base directory: %w", baseDev, err)
	}
	defer dir.close()
	fs := superblock{fsType: "tmpfs", source: "devices", options: []oci.FSOption{{Key: "mode", Value: "700"}}}
	nodes, err := b.keep(fs.mount(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC))
	if err != nil {
		return err
	}
	if err := errors.Join(setPropagation(nodes, unix.MS_PRIVATE), move(nodes, dir)); err != nil {
		return fmt.Errorf("attach the device nodes: %w", err)
	}
	for i, d := range b.plan.Devices {
		if !b.plan.BoundDev && d.Path == ptmxPath {
			continue
		}
		if err := b.bindNode(nodes, strconv.Itoa(i), d); err != nil {
			return fmt.Errorf("linux.devices: %q: %w", d.Path, err)
		}
	}
	return nil
}

func (b *builder) bindNode(nodes handle, name string, d oci.Device) error {
	place := d.Path
	d.Path = "/" + name
	d.UID, _ = b.plan.IDMap.HostUID(d.UID) // oci has checked that they are mapped
	d.GID, _ = b.plan.IDMap.HostGID(d.GID)
	if err := makeDevice(nodes, d); err != nil {
		return err
	}
	dest, _, err := ensure(b.root, place, what{file: true, mode: 0o644})
	if err != nil {
		return fmt.Errorf("create mountpoint: %w", err)
	}
	defer dest.close()
	tree, err := clone(nodes, path.Base(d.Path), false)
	if err != nil {
		return fmt.Errorf("clone the node: %w", err)
	}
	defer tree.close()
	if err := move(tree, dest); err != nil {
		return fmt.Errorf("attach the node: %w", err)
	}
	return nil
}

// makeQueues makes an mqueue. Its root came with the IPC namespace, before who
// made that was the root of the user namespace, and would be nobody's.
func (b *builder) makeQueues(m *oci.Mount, options []oci.FSOption) (handle, error) {
	h, err := newFS(m, options, nil)
	if err != nil || b.plan.IDMap.IsZero() {
		return h, err
	}
	st, err := h.stat()
	if err == nil && st.Uid == 0 { // else it has been made right, with a namespace that is joined
		var uid, gid uint32
		if uid, gid, err = rootOf(b.plan.IDMap); err == nil {
			err = unix.Fchownat(int(h), "", int(uid), int(gid), emptyPath)
		}
	}
	if err != nil {
		h.close()
		return none, fmt.Errorf("owner of the mqueue: %w", err)
	}
	return h, nil
}
