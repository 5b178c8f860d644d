package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

const (
	hostCgroups = "/sys/fs/cgroup"
	// cgroupAttr is what a tmpfs with hierarchies always has.
	cgroupAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
)

// cgroupView is what a container gets to see as its cgroups.
type cgroupView struct {
	unified     bool        // cgroup2 only
	private     bool        // the container has a cgroup namespace of its own
	hierarchies []hierarchy // of cgroup v1
}

// hierarchy is one of cgroup v1.
type hierarchy struct {
	name        string   // of its directory, as in "cpu,cpuacct"
	controllers []string // "cpu", or "name=systemd"
	group       string   // path of the container's group on the host
	tree        handle   // clone of group, where the namespace is the host's
}

// viewCgroups finds out about the cgroups, still in the host's namespaces.
func (b *builder) viewCgroups() error {
	if !slices.ContainsFunc(b.plan.Mounts, func(m oci.Mount) bool { return m.Kind == oci.MountCgroup }) {
		return nil
	}
	host, err := b.namespace("thread-self", "cgroup")
	if err != nil {
		return err
	}
	own, err := b.namespace(strconv.Itoa(b.target.PID), "cgroup")
	if err != nil {
		return err
	}
	v := &cgroupView{private: own != host}
	b.cgroups = v
	var fs unix.Statfs_t
	if err := unix.Statfs(hostCgroups, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", hostCgroups, err)
	}
	if v.unified = fs.Type == unix.CGROUP2_SUPER_MAGIC; v.unified {
		return nil
	}
	v.hierarchies, err = b.hierarchies()
	return err
}

// hierarchies lists the mounted cgroup v1 hierarchies that the container is
// in, each once, in the order of the mounts.
func (b *builder) hierarchies() ([]hierarchy, error) {
	groups, err := b.readProc(strconv.Itoa(b.target.PID) + "/cgroup")
	if err != nil {
		return nil, err
	}
	paths := parseGroups(groups)
	mounts, err := b.readProc("thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(mounts), mountinfo.FSTypeFilter("cgroup"))
	if err != nil {
		return nil, fmt.Errorf("parse mountinfo: %w", err)
	}
	var found []hierarchy
	for _, info := range infos {
		h := hierarchy{name: filepath.Base(info.Mountpoint), tree: none}
		for option := range strings.SplitSeq(info.VFSOptions, ",") {
			group, ok := paths[option]
			if !ok {
				continue
			}
			delete(paths, option)
			h.controllers = append(h.controllers, option)
			h.group = groupPath(info, group)
		}
		if len(h.controllers) > 0 {
			found = append(found, h)
		}
	}
	return found, nil
}

// parseGroups reads /proc/PID/cgroup: the path of the group for each
// controller of cgroup v1 (cgroups(7)).
func parseGroups(data []byte) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || fields[1] == "" {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	return paths
}

// groupPath returns where a mount of a hierarchy shows a group; the mount
// itself if it shows only groups that the group is not in.
func groupPath(m *mountinfo.Info, group string) string {
	rel, err := filepath.Rel(m.Root, group)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return m.Mountpoint
	}
	return filepath.Join(m.Mountpoint, rel)
}

func (b *builder) readProc(name string) ([]byte, error) {
	h, err := openat(b.procfs, name, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open /proc/%s: %w", name, err)
	}
	f := os.NewFile(uintptr(h), name)
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read /proc/%s: %w", name, err)
	}
	return data, nil
}

// cloneCgroups takes the host's mounts where the container has no cgroup
// namespace of its own: as runc, all of cgroup2, or each group of cgroup v1.
// (A fresh mount of cgroup2 in the host's namespace would reset its options
// for the whole host.)
func (b *builder) cloneCgroups(i int) error {
	v := b.cgroups
	if v.private {
		return nil
	}
	take := func(path string) (handle, error) {
		h, err := b.keep(clone(unix.AT_FDCWD, path, false))
		if err != nil {
			return none, fmt.Errorf("mounts[%d]: clone %q: %w", b.plan.Mounts[i].Index, path, err)
		}
		return h, nil
	}
	var err error
	if v.unified {
		b.made[i], err = take(hostCgroups)
		return err
	}
	for j := range v.hierarchies {
		if v.hierarchies[j].tree, err = take(v.hierarchies[j].group); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) placeCgroup(i int, m *oci.Mount) error {
	dest, err := b.destination(m, none, true)
	if err != nil {
		return err
	}
	defer dest.close()
	if !b.cgroups.unified {
		return b.placeHierarchies(m, dest.handle)
	}
	tree, cloned := b.made[i]
	if !cloned {
		fs := superblock{fsType: "cgroup2", source: m.Source, options: m.Data}
		if tree, err = b.keep(fs.mount(m.Set | m.RecSet)); err != nil {
			return err
		}
	} else if err := setAttr(tree, m.Set|m.RecSet, m.Clear|m.RecClear, false); err != nil {
		return err
	}
	return b.attach(tree, dest.handle, m)
}

// placeHierarchies shows cgroup v1 as the host does: a tmpfs with a directory
// for each hierarchy, and links to those with several controllers.
func (b *builder) placeHierarchies(m *oci.Mount, dest handle) error {
	fs := superblock{fsType: "tmpfs", source: "tmpfs", options: []oci.FSOption{{Key: "mode", Value: "755"}}}
	tmpfs, err := b.keep(fs.mount(cgroupAttr))
	if err != nil {
		return err
	}
	for _, h := range b.cgroups.hierarchies {
		if err := h.makeDir(tmpfs); err != nil {
			return err
		}
	}
	if err := b.attach(tmpfs, dest, m); err != nil {
		return err
	}
	for _, h := range b.cgroups.hierarchies {
		if err := b.placeHierarchy(m, tmpfs, h); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return setAttr(tmpfs, (m.Set|m.RecSet)&unix.MOUNT_ATTR_RDONLY, 0, false)
}

func (h hierarchy) makeDir(tmpfs handle) error {
	if err := unix.Mkdirat(int(tmpfs), h.name, 0o755); err != nil {
		return fmt.Errorf("mkdir %q: %w", h.name, err)
	}
	if !strings.Contains(h.name, ",") {
		return nil
	}
	for controller := range strings.SplitSeq(h.name, ",") {
		if err := unix.Symlinkat(h.name, int(tmpfs), controller); err != nil && err != unix.EEXIST { //nolint:errorlint // a bare errno
			return fmt.Errorf("symlink %q: %w", path.Base(controller), err)
		}
	}
	return nil
}

func (b *builder) placeHierarchy(m *oci.Mount, tmpfs handle, h hierarchy) error {
	dir, err := openat(tmpfs, h.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer dir.close()
	tree := h.tree
	if b.cgroups.private {
		if tree, err = b.keep(h.filesystem().mount(cgroupAttr | (m.Set|m.RecSet)&unix.MOUNT_ATTR_RDONLY)); err != nil {
			return err
		}
	} else if err := setAttr(tree, m.Set|m.RecSet, m.Clear|m.RecClear, false); err != nil {
		return err
	}
	return b.attach(tree, dir, m)
}

// filesystem is the hierarchy as the cgroup namespace of the thread shows it.
func (h hierarchy) filesystem() superblock {
	fs := superblock{fsType: "cgroup", source: "cgroup"}
	for _, c := range h.controllers {
		if name, named := strings.CutPrefix(c, "name="); named {
			fs.source = name
			fs.options = append(fs.options, oci.FSOption{Key: "name", Value: name})
			continue
		}
		fs.options = append(fs.options, oci.FSOption{Key: c, Flag: true})
	}
	return fs
}
