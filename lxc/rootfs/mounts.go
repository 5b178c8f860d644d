package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// prepare makes what only the host's mount namespace can give: clones of
// root.path and of the sources of bind mounts, and file systems that name a
// path of the host. Symlinks are followed on the host, as runc does.
func (b *builder) prepare() (err error) {
	if b.root, err = b.keep(b.takeRoot()); err != nil {
		return fmt.Errorf("root.path: open %q: %w", b.plan.Root.Path, err)
	}
	if dir, err := b.root.isDir(); err != nil || !dir {
		return fmt.Errorf("root.path: %q: %w", b.plan.Root.Path, errors.Join(err, unix.ENOTDIR))
	}
	for i := range b.plan.Mounts {
		if err := b.makeOnHost(i); err != nil {
			return err
		}
	}
	return errors.Join(b.prepareNull(), b.cloneHost())
}

// takeRoot returns a clone of root.path, or what was given in its place.
func (b *builder) takeRoot() (root handle, err error) {
	if b.target.Root == nil {
		return clone(unix.AT_FDCWD, b.plan.Root.Path, true)
	}
	err = using(b.target.Root, func(h handle) error {
		fd, err := unix.FcntlInt(uintptr(h), unix.F_DUPFD_CLOEXEC, 0)
		root = handle(fd)
		return err
	})
	return root, err
}

func (b *builder) makeOnHost(i int) error {
	m := &b.plan.Mounts[i]
	var h handle
	var err error
	switch {
	case m.Kind == oci.MountBind:
		if h, err = cloneBind(m, b.target.Users[i]); err != nil {
			return err
		}
	case m.Kind == oci.MountFS && (namesHostPath(m) || b.revealing(m)):
		if h, err = newFS(m, m.Data, nil); err != nil {
			return fmt.Errorf("mounts[%d] (%q): %w", m.Index, m.Destination, err)
		}
	case m.Kind == oci.MountCgroup:
		return b.cloneCgroups(i)
	default:
		return nil
	}
	b.made[i], _ = b.keep(h, nil)
	return nil
}

// namesHostPath says that a file system needs files of the host to come into
// being: a block device, the layers of an overlay.
func namesHostPath(m *oci.Mount) bool {
	if m.Type == "tmpfs" {
		return false
	}
	return strings.HasPrefix(m.Source, "/") ||
		slices.ContainsFunc(m.Data, func(o oci.FSOption) bool { return strings.Contains(o.Value, "/") })
}

// revealing says that a file system can not be made in the mount namespace of
// a user namespace: the kernel lets nobody mount a sysfs there who does not
// see a whole one already (mount_too_revealing in fs/namespace.c).
func (b *builder) revealing(m *oci.Mount) bool {
	return m.Type == "sysfs" && !b.plan.IDMap.IsZero()
}

// newFS makes a file system and a detached mount of it, with a context that
// was opened elsewhere unless that is nil.
func newFS(m *oci.Mount, options []oci.FSOption, context *os.File) (handle, error) {
	attr := (m.Set | m.RecSet) &^ sealedAttr(m)
	if attr&unix.MOUNT_ATTR_RDONLY != 0 && namesHostPath(m) {
		// A device that is read-only itself can not be mounted otherwise.
		// Those of the kernel are shared with other containers: for them
		// only the mount is read-only.
		options = append([]oci.FSOption{{Key: "ro", Flag: true}}, options...)
	}
	return superblock{fsType: m.Type, source: m.Source, options: options, context: context}.mount(attr)
}

// sealedAttr returns the attributes that a mount gets only when everything
// has been put into it, as with runc: /dev and tmpfs become read-only last.
func sealedAttr(m *oci.Mount) uint64 {
	if m.Destination == "/dev" || m.Kind == oci.MountFS && m.Type == "tmpfs" {
		return unix.MOUNT_ATTR_RDONLY
	}
	return 0
}

func (b *builder) placeMounts() error {
	for i := range b.plan.Mounts {
		m := &b.plan.Mounts[i]
		if err := b.place(i, m); err != nil {
			return fmt.Errorf("mounts[%d] (%q): %w", m.Index, m.Destination, err)
		}
	}
	return nil
}

func (b *builder) place(i int, m *oci.Mount) error {
	switch m.Kind {
	case oci.MountRemount:
		return b.remount(m)
	case oci.MountCgroup:
		return b.placeCgroup(i, m)
	}
	tree, ready := b.made[i]
	isDir := true
	if ready {
		var err error
		if isDir, err = tree.isDir(); err != nil {
			return err
		}
	}
	dest, err := b.destination(m, tree, isDir)
	if err != nil {
		return err
	}
	defer dest.close()
	if !ready {
		if tree, err = b.keep(b.makeInside(i, m, dest)); err != nil {
			return err
		}
	}
	if err := b.adjust(tree, m); err != nil {
		return err
	}
	return b.attach(tree, dest.handle, m)
}

// makeInside makes the detached mounts that depend on the container.
func (b *builder) makeInside(i int, m *oci.Mount, dest place) (handle, error) {
	if m.Kind == oci.MountProc {
		return cloneProc(m)
	}
	options, err := b.ownOptions(i, m)
	if err != nil {
		return none, err
	}
	if m.Type == "mqueue" {
		return b.makeQueues(m, options)
	}
	if m.Type != "tmpfs" {
		return newFS(m, options, b.target.Contexts[i])
	}
	tree, err := newFS(m, tmpfsOptions(m, options, dest), b.target.Contexts[i])
	if err != nil || !m.TmpCopyUp || dest.created {
		return tree, err
	}
	if err := copyUp(b.ctx, b.root, m.Destination, tree); err != nil {
		tree.close()
		return none, fmt.Errorf("tmpcopyup: %w", err)
	}
	return tree, nil
}

// ownOptions are the options of a file system in the container's terms.
func (b *builder) ownOptions(i int, m *oci.Mount) ([]oci.FSOption, error) {
	if b.plan.IDMap.IsZero() || !needsContext(m) {
		return m.Data, nil
	}
	if b.target.Contexts[i] == nil {
		return nil, fmt.Errorf("no context of the user namespace: %w", errdefs.ErrInternal)
	}
	return hostOptions(m, b.plan.IDMap)
}

// cloneProc takes LXC's procfs, as one can not be made for another pid
// namespace.
func cloneProc(m *oci.Mount) (handle, error) {
	h, err := clone(unix.AT_FDCWD, baseProc, false)
	if err != nil {
		return none, fmt.Errorf("clone the procfs of LXC: %w", err)
	}
	if len(m.Data) == 0 {
		return h, nil
	}
	// It is the container's alone (Linux 5.8), so its options are too.
	if err := reconfigure(h, m.Data); err != nil {
		h.close()
		return none, err
	}
	return h, nil
}

// tmpfsOptions adds the mode of the directory that the tmpfs covers, unless
// the options have one, as runc does.
func tmpfsOptions(m *oci.Mount, options []oci.FSOption, dest place) []oci.FSOption {
	hasMode := slices.ContainsFunc(m.Data, func(o oci.FSOption) bool { return o.Key == "mode" })
	if dest.created || hasMode {
		return options
	}
	mode := oci.FSOption{Key: "mode", Value: fmt.Sprintf("%04o", dest.mode&0o7777)}
	return append([]oci.FSOption{mode}, options...)
}

// adjust sets the attributes of a mount that exists already in another form.
func (b *builder) adjust(tree handle, m *oci.Mount) error {
	late := sealedAttr(m)
	if (m.Set|m.RecSet)&late != 0 {
		b.sealed = append(b.sealed, tree)
	}
	switch m.Kind {
	case oci.MountFS: // made with them
		return nil
	case oci.MountProc: // LXC's own are not asked for
		return setAttr(tree, m.Set|m.RecSet, everyAttr, false)
	}
	err := setAttr(tree, m.Set&^late, m.Clear|m.Drop, false)
	if m.Drop != 0 && errors.Is(err, unix.EPERM) { // locked: the shim is in a user namespace itself
		err = setAttr(tree, m.Set&^late, m.Clear, false)
	}
	if err != nil {
		return err
	}
	return setAttr(tree, m.RecSet&^late, m.RecClear, true)
}

// remount changes a mount that is in the container already.
func (b *builder) remount(m *oci.Mount) error {
	h, err := lookup(b.root, m.Destination, unix.O_PATH, 0)
	if err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	defer h.close()
	if len(m.Data) != 0 {
		if err := reconfigure(h, m.Data); err != nil {
			return fmt.Errorf("remount: %w", err)
		}
	}
	if err := errors.Join(
		setAttr(h, m.Set, m.Clear, false),
		setAttr(h, m.RecSet, m.RecClear, true),
	); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	if err := propagate(h, m.Propagation); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	return nil
}

// place is where a mount goes.
type place struct {
	handle
	created bool
	mode    uint32 // as in stat(2)
}

// destination opens the mount point of m, and creates it if it is missing.
func (b *builder) destination(m *oci.Mount, tree handle, isDir bool) (p place, err error) {
	// As runc: a procfs or sysfs that is elsewhere than one thinks has been
	// the start of many an attack.
	strict := m.Kind == oci.MountProc || m.Kind == oci.MountFS && m.Type == "sysfs"
	p.handle, p.created, err = ensure(b.root, m.Destination, what{file: !isDir, mode: 0o644, noLinks: strict})
	if strict && (errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)) {
		return p, fmt.Errorf("filesystem %q must be mounted on ordinary directory: %w", m.Type, err)
	}
	if err != nil {
		return p, fmt.Errorf("create mountpoint: %w", err)
	}
	if p.mode, err = b.checkPlace(m, p.handle, tree, isDir); err != nil {
		p.close()
		return p, err
	}
	return p, nil
}

func (b *builder) checkPlace(m *oci.Mount, dest, tree handle, isDir bool) (mode uint32, err error) {
	st, err := dest.stat()
	if err != nil {
		return 0, err
	}
	if destDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; destDir != isDir {
		return 0, fmt.Errorf("a file can not be mounted on a directory, nor a directory on a file: %w", unix.ENOTDIR)
	}
	resolved, err := b.realPath(dest)
	if err != nil {
		return 0, err
	}
	if resolved == "/" {
		return 0, fmt.Errorf("a mount can not cover the root: %w", errdefs.ErrInvalidArgument)
	}
	return st.Mode, checkProc(m, resolved, tree)
}

// realPath returns where in the new root h is.
func (b *builder) realPath(h handle) (string, error) {
	p, err := readlink(b.procfs, fmt.Sprintf("thread-self/fd/%d", h))
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(p, baseRoot)
	if !ok || rel != "" && rel[0] != '/' {
		return "", fmt.Errorf("%q is not below the new root: %w", p, errdefs.ErrFailedPrecondition)
	}
	return path.Clean("/" + rel), nil
}

// procFiles are the files of /proc that may be mounted on, as lxcfs does. Of
// the others some, faked, would disarm what is written to them for safety.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
	"/proc/uptime", "/proc/loadavg", "/proc/slabinfo", "/proc/net/dev",
	"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// checkProc refuses what runc refuses below /proc. resolved is the resolved
// destination.
func checkProc(m *oci.Mount, resolved string, tree handle) error {
	if resolved == "/proc" {
		if m.Kind == oci.MountProc || m.Kind == oci.MountBind && isProc(tree) {
			return nil
		}
		return fmt.Errorf("%q cannot be mounted because it is not of type proc: %w", resolved, errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(resolved, "/proc/") && !slices.Contains(procFiles, resolved) {
		return fmt.Errorf("%q cannot be mounted because it is inside /proc: %w", resolved, errdefs.ErrInvalidArgument)
	}
	return nil
}

func isProc(h handle) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(h), &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}
