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

// privateCgroups gives the session a cgroup of its own in every hierarchy, as
// the root that its processes see: groups whose names know no session, such as
// lxc/900000, do not meet those of another one. The calling thread must be
// locked; the mounts are the session's own.
//
// With cgroup v2 alone the session sees all of it, and stays where it is, as a
// containerd does that systemd started: it needs the groups that systemd makes,
// and one that has processes can give those below it no controllers.
func privateCgroups(token string) error {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil || st.Type == unix.CGROUP2_SUPER_MAGIC {
		return err
	}
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i *mountinfo.Info) bool { return !strings.HasPrefix(i.Mountpoint, "/sys/fs/cgroup") })
	for _, i := range infos {
		if err := enterCgroup(filepath.Join(i.Mountpoint, token)); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	for _, i := range infos {
		if err := unix.Unmount(i.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", i.Mountpoint, err)
		}
		if err := unix.Mount(i.Source, i.Mountpoint, i.FSType, 0, hierarchy(i)); err != nil {
			return fmt.Errorf("mount %s %s: %w", i.FSType, i.Mountpoint, err)
		}
	}
	return nil
}

// hierarchy are the mount options that name a v1 hierarchy.
func hierarchy(i *mountinfo.Info) string {
	if i.FSType == "cgroup2" {
		return ""
	}
	var names []string
	for _, o := range strings.Split(i.VFSOptions, ",") {
		if o != "rw" && o != "ro" && o != "xattr" && !strings.HasPrefix(o, "release_agent=") {
			names = append(names, o)
		}
	}
	return strings.Join(names, ",")
}

// enterCgroup makes a cgroup and moves this process into it.
func enterCgroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new v1 group, which then takes no process
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s of the session's cgroup: %w", name, err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}
