package crun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
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
