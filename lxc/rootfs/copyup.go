package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// copyUp copies what is below path in the container into a file system that
// is not attached yet: contents, types, owners, modes, times and extended
// attributes. Hard links become copies.
func copyUp(ctx context.Context, root handle, path string, to handle) error {
	from, err := lookup(root, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer from.close()
	// The mount's own descriptor is an O_PATH one.
	dest, err := openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dest.close()
	return copyTree(ctx, from, dest)
}

// copyTree copies the entries of a directory, and does not follow symlinks.
func copyTree(ctx context.Context, from, to handle) error {
	dir, err := from.file("")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(128)
		for _, e := range entries {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := copyEntry(ctx, from, to, e.Name()); err != nil {
				return fmt.Errorf("%s: %w", e.Name(), err)
			}
		}
		if errors.Is(err, io.EOF) {
			return copyMeta(from, to)
		}
		if err != nil {
			return err
		}
	}
}

func copyEntry(ctx context.Context, from, to handle, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(from), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return copyDir(ctx, from, to, name)
	case unix.S_IFREG:
		return copyFile(from, to, name)
	case unix.S_IFLNK:
		target, err := readlink(from, name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, int(to), name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(int(to), name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return errors.Join(
		unix.Fchownat(int(to), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW),
		unix.UtimesNanoAt(int(to), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW),
	)
}

func copyDir(ctx context.Context, from, to handle, name string) error {
	src, err := openat(from, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer src.close()
	if err := unix.Mkdirat(int(to), name, 0o700); err != nil {
		return err
	}
	dst, err := openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer dst.close()
	return copyTree(ctx, src, dst)
}

func copyFile(from, to handle, name string) error {
	// O_NONBLOCK: a race may have put a FIFO here.
	in, err := openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), name)
	defer src.Close()
	if st, err := in.stat(); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.Join(err, unix.ESTALE)
	}
	out, err := unix.Openat(int(to), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), name)
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return copyMeta(in, handle(out))
}

// copyMeta copies everything but the contents. The owner comes first, as it
// takes set-id bits and capabilities away.
func copyMeta(from, to handle) error {
	st, err := from.stat()
	if err != nil {
		return err
	}
	if err := unix.Fchown(int(to), int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Fchmod(int(to), st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(int(to), "", times, emptyPath)
}

func copyXattrs(from, to handle) error {
	names, err := readXattr(func(buf []byte) (int, error) { return unix.Flistxattr(int(from), buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := readXattr(func(buf []byte) (int, error) { return unix.Fgetxattr(int(from), name, buf) })
		if err == nil {
			err = unix.Fsetxattr(int(to), name, value, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return nil
}

func readXattr(read func(buf []byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = read(buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
