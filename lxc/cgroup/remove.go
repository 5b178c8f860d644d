package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// removeTimeout bounds the wait for processes that have been killed.
const removeTimeout = 2 * time.Second

// Remove removes the group and those below it, in every hierarchy. Processes
// in it must have been killed; their end is waited for. The groups above stay,
// as with every runtime. What is gone already is no error.
func (g *Group) Remove() error {
	g.filter.close()
	return Remove(g.Dirs())
}

// Remove removes groups by the directories that Dirs returned, as Group.Remove.
func Remove(dirs []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeTree(ctx, dir))
	}
	return errors.Join(errs...)
}

// RemoveEmpty removes the group at a path as Path returns it, in every hierarchy
// where it is and has neither processes nor groups.
func RemoveEmpty(path string) error {
	h, err := thisHost()
	if err != nil {
		return err
	}
	return h.removeEmpty(path)
}

func (h *host) removeEmpty(path string) error {
	var errs []error
	for _, v := range h.all() {
		dir := filepath.Join(v.mount, path)
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}

// removeTree removes the groups below first: the kernel wants it so.
func removeTree(ctx context.Context, dir string) error {
	// Most groups have no other below, and are empty.
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return removeEmptied(ctx, dir)
}

// removeEmptied removes a group when the last process is out of it.
func removeEmptied(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		if err := awaitOne(ctx, dir); err != nil {
			pids, _ := readPids(filepath.Join(dir, "cgroup.procs"))
			return fmt.Errorf("remove control group %s: processes %v are in it: %w", dir, pids, err)
		}
	}
}

// awaitOne waits for the end of one process in the group.
func awaitOne(ctx context.Context, dir string) error {
	open, err := openPids(dir)
	defer closeAll(open)
	if err != nil {
		return ignoreGone(err)
	}
	if len(open) > 0 {
		return waitDead(ctx, open[0])
	}
	// Nobody is listed, but the last thread has not left the kernel yet: it
	// is a matter of microseconds, and v1 tells nobody.
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
