package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Hierarchies are the mount points of all cgroup hierarchies in view.
func Hierarchies() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	var points []string
	for _, i := range infos {
		if strings.HasPrefix(i.Mountpoint, "/sys/fs/cgroup") && !slices.Contains(points, i.Mountpoint) {
			points = append(points, i.Mountpoint)
		}
	}
	return points, nil
}

// Cgroups lists the cgroups, in every hierarchy, whose path says that they are
// this session's (it has the token in it), and the lxc.pivot at the top of LXC. A containerd
// namespace's own cgroup is among them: no runtime ever removes it.
func Cgroups(token string) ([]string, error) {
	points, err := Hierarchies()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, point := range points {
		err := filepath.WalkDir(point, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // another cgroup of the machine, just removed
			}
			if err != nil {
				return err
			}
			if d.IsDir() && (strings.Contains(path, token) || path == filepath.Join(point, "lxc.pivot")) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("walk %s: %w", point, err)
		}
	}
	return found, nil
}

// removeCgroups removes what a session that was killed left in the host's
// hierarchies. All its processes are gone with its pid namespace.
func removeCgroups(token string) error {
	found, err := Cgroups(token)
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(found) {
		if !strings.Contains(dir, token) {
			continue
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}
