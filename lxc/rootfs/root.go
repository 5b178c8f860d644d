package rootfs

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Root is the file system of a running container, as seen from outside. Its
// methods may be called by several goroutines, for as long as the container
// lives.
//
// It keeps the root file system busy until Close: it has to be closed before
// the snapshot is removed.
type Root struct {
	target Target // with a descriptor of its own
	dir    *os.File
	pts    *os.File // /dev/pts, nil if there is none

	closing sync.Once
}

// newRoot takes duplicates of what it is given.
func newRoot(t Target, dir handle) (r *Root, err error) {
	r = &Root{target: Target{PID: t.PID, IDs: t.IDs}}
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	if r.dir, err = dir.file("rootfs"); err != nil {
		return nil, err
	}
	err = using(t.PIDFD, func(h handle) (err error) {
		r.target.PIDFD, err = h.file("pidfd")
		return err
	})
	if err != nil {
		return nil, err
	}
	// Later the container may have put something else there.
	pts, err := lookup(dir, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return r, nil //nolint:nilerr // no devpts: Console says so
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(pts), &fs); err != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		pts.close()
		return r, nil //nolint:nilerr // no devpts
	}
	r.pts = os.NewFile(uintptr(pts), "devpts")
	return r, nil
}

// Open opens a regular file for reading, with the path resolved as in the
// container. Errors wrap the errno; ENXIO if it is no regular file.
func (r *Root) Open(path string) (*os.File, error) {
	var found handle
	err := using(r.dir, func(root handle) (err error) {
		found, err = lookup(root, path, unix.O_PATH, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer found.close()
	st, err := found.stat()
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENXIO // a FIFO would block, a device may do anything
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	fd, err := openat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", found), unix.O_RDONLY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Close lets go of the container's file system. It may be called more than
// once.
func (r *Root) Close() (err error) {
	r.closing.Do(func() {
		for _, f := range []*os.File{r.dir, r.pts, r.target.PIDFD} {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	})
	return err
}
