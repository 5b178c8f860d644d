package rootfs

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// seal makes read-only what had to be filled before: tmpfs, /dev, the root.
func (b *builder) seal() error {
	if b.plan.Root.Readonly {
		b.sealed = append(b.sealed, b.root)
	}
	for _, h := range b.sealed {
		if err := setAttr(h, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fmt.Errorf("make a mount read-only: %w", err)
		}
	}
	return nil
}

// protect applies linux.readonlyPaths and linux.maskedPaths, in the order of
// runc. What is missing needs no protection.
func (b *builder) protect() error {
	for i, path := range b.plan.ReadonlyPaths {
		if err := b.onPath(path, freeze); err != nil {
			return fmt.Errorf("linux.readonlyPaths[%d]: %q: %w", i, path, err)
		}
	}
	for i, path := range b.plan.MaskedPaths {
		if err := b.onPath(path, b.mask); err != nil {
			return fmt.Errorf("linux.maskedPaths[%d]: %q: %w", i, path, err)
		}
	}
	return nil
}

func (b *builder) onPath(path string, f func(h handle) error) error {
	if path == "/" {
		return fmt.Errorf("the root can not be covered: %w", errdefs.ErrInvalidArgument)
	}
	h, err := lookup(b.root, path, unix.O_PATH, 0)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.close()
	return f(h)
}

// freeze covers h with a read-only clone of itself. As with runc, mounts
// below it keep their own flags.
func freeze(h handle) error {
	tree, err := clone(h, "", true)
	if err != nil {
		return err
	}
	defer tree.close()
	if err := setPropagation(tree, unix.MS_PRIVATE|unix.MS_REC); err != nil {
		return err
	}
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
		return err
	}
	return move(tree, h)
}

// mask covers h with nothing: an empty read-only directory, or /dev/null.
func (b *builder) mask(h handle) error {
	dir, err := h.isDir()
	if err != nil {
		return err
	}
	if dir {
		return b.maskWith(h, &b.empty, b.emptyDir)
	}
	return b.maskWith(h, &b.null, b.ownNull)
}

// maskWith covers h with *with, the first time as it is (create makes it), then
// with clones of it: one file system serves all masks.
func (b *builder) maskWith(h handle, with *handle, create func() (handle, error)) error {
	if *with == none {
		made, err := create()
		if err != nil {
			return err
		}
		*with = made
		return move(made, h)
	}
	tree, err := clone(*with, "", false)
	if err != nil {
		return err
	}
	defer tree.close()
	return move(tree, h)
}

func (b *builder) emptyDir() (handle, error) {
	ro := []oci.FSOption{{Key: "ro", Flag: true}}
	return b.keep(superblock{fsType: "tmpfs", source: "tmpfs", options: ro}.mount(unix.MOUNT_ATTR_RDONLY))
}

// ownNull clones the container's /dev/null, after a look at whether it is.
// Where there is none it is the host's.
func (b *builder) ownNull() (handle, error) {
	if b.hostNull != none {
		return b.hostNull, nil
	}
	h, err := lookup(b.root, "/dev/null", unix.O_PATH, 0)
	if err != nil {
		return none, fmt.Errorf("open /dev/null: %w", err)
	}
	defer h.close()
	st, err := h.stat()
	if err != nil {
		return none, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return none, fmt.Errorf("/dev/null of the container is not the null device: %w", errdefs.ErrFailedPrecondition)
	}
	tree, err := b.keep(clone(h, "", false))
	if err != nil {
		return none, err
	}
	return tree, setPropagation(tree, unix.MS_PRIVATE)
}

// prepareNull clones the host's /dev/null for containers that have none.
func (b *builder) prepareNull() (err error) {
	if len(b.plan.MaskedPaths) == 0 || b.hasNull() {
		return nil
	}
	if b.hostNull, err = b.keep(clone(unix.AT_FDCWD, "/dev/null", false)); err != nil {
		return fmt.Errorf("linux.maskedPaths: clone /dev/null: %w", err)
	}
	return setPropagation(b.hostNull, unix.MS_PRIVATE)
}

func (b *builder) hasNull() bool {
	return b.plan.BoundDev || slices.ContainsFunc(b.plan.Devices, func(d oci.Device) bool { return d.Path == "/dev/null" })
}
