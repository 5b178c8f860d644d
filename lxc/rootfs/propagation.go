package rootfs

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// placed is an attached mount with the propagation that it is to have.
type placed struct {
	tree        handle
	propagation []uint64
}

// severRoot keeps mounts made in the new root away from the host. With a
// slave, those made on the host below root.path still appear in it.
func (b *builder) severRoot() error {
	propagation := uint64(unix.MS_PRIVATE)
	if b.plan.Root.Propagation&(unix.MS_SLAVE|unix.MS_SHARED) != 0 {
		propagation = unix.MS_SLAVE
	}
	return setPropagation(b.root, propagation|unix.MS_REC)
}

// shareRoot applies what of linux.rootfsPropagation pivot_root(2) would have
// refused. The peer group is a new one: it serves the mount namespaces that
// the container itself makes.
func (b *builder) shareRoot() error {
	p := b.plan.Root.Propagation
	if p&(unix.MS_SHARED|unix.MS_UNBINDABLE) == 0 {
		return nil
	}
	if err := setPropagation(b.root, p); err != nil {
		return fmt.Errorf("linux.rootfsPropagation: %w", err)
	}
	if p&unix.MS_REC == 0 {
		return nil
	}
	for _, m := range b.placed {
		if err := propagate(m.tree, m.propagation); err != nil {
			return fmt.Errorf("linux.rootfsPropagation: %w", err)
		}
	}
	return nil
}

// attach moves a detached mount to its place, with the propagation of m.
func (b *builder) attach(tree, dest handle, m *oci.Mount) error {
	if err := b.sever(tree, m); err != nil {
		return err
	}
	propagation := m.Propagation
	if len(propagation) == 0 && m.Kind == oci.MountBind {
		propagation = []uint64{unix.MS_PRIVATE | unix.MS_REC}
	}
	if err := propagate(tree, propagation); err != nil {
		return err
	}
	if err := move(tree, dest); err != nil {
		return fmt.Errorf("attach the mount: %w", err)
	}
	if len(propagation) == 0 {
		return nil
	}
	b.placed = append(b.placed, placed{tree, propagation})
	return propagate(tree, propagation) // again: a shared parent has made it shared
}

// sever ends that a clone is a peer of what it was cloned from: it becomes a
// slave, as all mounts do with runc. Only where linux.rootfsPropagation is
// shared do mounts that ask for it stay shared with the host.
func (b *builder) sever(tree handle, m *oci.Mount) error {
	if m.Kind == oci.MountFS || m.Kind == oci.MountProc {
		return nil // nobody's peer
	}
	wanted := slices.ContainsFunc(m.Propagation, func(p uint64) bool { return p&unix.MS_SHARED != 0 })
	if wanted && b.plan.Root.Propagation&unix.MS_SHARED != 0 {
		return nil
	}
	return setPropagation(tree, unix.MS_SLAVE|unix.MS_REC)
}

func propagate(tree handle, propagation []uint64) error {
	for _, p := range propagation {
		if err := setPropagation(tree, p); err != nil {
			return err
		}
	}
	return nil
}
