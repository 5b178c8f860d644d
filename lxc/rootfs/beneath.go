package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Beneath returns a detached copy of what is mounted at place in the mount
// namespace of a process, with what is mounted below. The directory cover,
// which was bound over it there, is taken away first: things are then as they
// were without it. It needs Linux 5.8 (setns(2) with a pidfd).
func Beneath(process *os.File, place, cover string) (tree *os.File, err error) {
	err = onThread(func() error {
		var over unix.Stat_t
		if err := unix.Stat(cover, &over); err != nil {
			return &os.PathError{Op: "stat", Path: cover, Err: err}
		}
		if err := using(process, func(h handle) error { return unix.Setns(int(h), unix.CLONE_NEWNS) }); err != nil {
			return fmt.Errorf("join the mount namespace: %w", err)
		}
		if err := uncover(place, over); err != nil {
			return err
		}
		h, err := clone(unix.AT_FDCWD, place, true)
		if err != nil {
			return fmt.Errorf("open %q: %w", place, err)
		}
		tree = os.NewFile(uintptr(h), place)
		return nil
	})
	return tree, err
}

// uncover unmounts the directory over, if it is at place.
func uncover(place string, over unix.Stat_t) error {
	is := func() (bool, error) {
		var st unix.Stat_t
		if err := unix.Stat(place, &st); err != nil {
			return false, &os.PathError{Op: "stat", Path: place, Err: err}
		}
		return st.Dev == over.Dev && st.Ino == over.Ino, nil
	}
	covered, err := is()
	if err != nil || !covered {
		return err
	}
	if err := unix.Unmount(place, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("uncover %q: %w", place, err)
	}
	if covered, err = is(); err == nil && covered {
		err = fmt.Errorf("%q: nothing is mounted beneath: %w", place, errdefs.ErrFailedPrecondition)
	}
	return err
}

// RemoveEmpty removes directories below root, those that are empty, without
// following any link. root is a mount of Beneath.
func RemoveEmpty(root *os.File, dirs []string) error {
	return using(root, func(h handle) error {
		for _, dir := range dirs {
			if err := removeEmpty(h, dir); err != nil {
				return fmt.Errorf("remove /%s: %w", dir, err)
			}
		}
		return nil
	})
}

func removeEmpty(root handle, dir string) error {
	parent, err := lookup(root, path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		defer parent.close()
		err = unix.Unlinkat(int(parent), path.Base(dir), unix.AT_REMOVEDIR)
	}
	for _, harmless := range []error{unix.ENOENT, unix.ENOTDIR, unix.ENOTEMPTY, unix.ELOOP} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}
