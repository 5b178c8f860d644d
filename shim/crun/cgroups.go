package crun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// hostCgroups is where crun looks for cgroups.
const hostCgroups = "/sys/fs/cgroup"

// checkCgroups refuses a layout that crun does not work with: cgroup v1, with
// a cgroup2 beside it that has controllers. crun would say so only after it
// has begun.
func checkCgroups(root string) error {
	unified := filepath.Join(root, "unified")
	if is, err := isCgroup2(root); err != nil || is {
		return err
	}
	if is, err := isCgroup2(unified); err != nil || !is {
		return err
	}
	b, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
	if err != nil {
		return err
	}
	controllers := strings.Fields(string(b))
	if len(controllers) == 0 {
		return nil
	}
	return fmt.Errorf("crun does not work with hybrid cgroups: %s is a cgroup2 with the controllers %s beside cgroup v1; "+
		"boot with systemd.unified_cgroup_hierarchy=1, or leave no controllers to cgroup2, or configure runc: %w",
		unified, strings.Join(controllers, ", "), errdefs.ErrFailedPrecondition)
}

// newCgroup returns the directory of the cgroup that the engine is to make for
// a container: "" if it is there already, and so not the container's alone, if
// systemd makes it, or if the engine chooses its name. On cgroup v1 it is a path
// that never exists.
func newCgroup(root, cgroupsPath string) string {
	if !filepath.IsAbs(cgroupsPath) {
		return ""
	}
	dir := filepath.Join(root, cgroupsPath)
	if exists(dir) {
		return ""
	}
	return dir
}

// removeCgroup removes what newCgroup announced after the engine has failed:
// crun 1.21 leaves it there on cgroup v2, without processes, when it refuses the
// container's namespaces.
func removeCgroup(ctx context.Context, dir string) {
	if dir == "" {
		return
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		log.G(ctx).WithError(err).WithField("path", dir).Warn("remove the cgroup of a container that was not created")
	}
}

func isCgroup2(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}
