package rootfs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// cloneHost takes what beforePivot is to see of the host. Mounts that go away
// on the host go away in it too.
func (b *builder) cloneHost() (err error) {
	if b.beforePivot == nil {
		return nil
	}
	if b.host, err = b.keep(clone(unix.AT_FDCWD, "/", true)); err != nil {
		return fmt.Errorf("clone the host's file system: %w", err)
	}
	return setPropagation(b.host, unix.MS_SLAVE|unix.MS_REC)
}

// showHost makes the clone of the host's file system the root of the
// container's mount namespace, with the container's at root.path, calls
// beforePivot, and leaves the rest to pivot. Whoever enters the namespace
// meanwhile finds things as with runc, whose root is the host's until then.
func (b *builder) showHost() error {
	if b.beforePivot == nil {
		return nil
	}
	dir, err := openat(unix.AT_FDCWD, baseDev, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open %s of the base directory: %w", baseDev, err)
	}
	defer dir.close()
	if err := move(b.host, dir); err != nil {
		return fmt.Errorf("attach the host's file system: %w", err)
	}
	place, err := lookup(b.host, b.plan.Root.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("root.path: %q: %w", b.plan.Root.Path, err)
	}
	defer place.close()
	if err := move(b.root, place); err != nil {
		return fmt.Errorf("root.path: attach to %q: %w", b.plan.Root.Path, err)
	}
	if err := b.pivotTo(b.host); err != nil {
		return err
	}
	done := make(chan error) // this thread is in other namespaces
	go func() { done <- b.beforePivot() }()
	return <-done
}
