package lxc

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

// MountPoint is one of rootfs and mpN.
type MountPoint struct {
	Key    string
	Volume string // id, or an absolute path
	Target string // in the container
	Opts   ctconf.Pairs
}

// MountPoints of a container, the root first.
func MountPoints(s *ctconf.Section) ([]MountPoint, error) {
	keys := []string{"rootfs"}
	c := &ctconf.Conf{Section: *s}
	var all []MountPoint
	for _, key := range append(keys, Keys(c, "mp")...) {
		value, ok := s.Props[key]
		if !ok {
			continue
		}
		p, err := ctconf.ParsePairs(value, "volume")
		if err != nil {
			return nil, host.Dief("%w", err)
		}
		target := p["mp"]
		if key == "rootfs" {
			target = "/"
		}
		all = append(all, MountPoint{key, p["volume"], target, p})
	}
	return all, nil
}

// Bind says whether it is a directory of the host.
func (m MountPoint) Bind() bool { return strings.HasPrefix(m.Volume, "/") }

// Mount mounts a container's root and mount points below root, in the mount
// namespace of the caller.
func Mount(c *ctconf.Conf, root string) error {
	points, err := MountPoints(&c.Section)
	if err != nil {
		return err
	}
	if len(points) == 0 || points[0].Key != "rootfs" {
		return host.Dief("mount points configured, but 'rootfs' not set - aborting")
	}
	for i, m := range points {
		if err := m.mount(root); err != nil {
			for range i {
				_ = unix.Unmount(root, unix.MNT_DETACH) // the root and what is below it
			}
			return err
		}
	}
	return nil
}

func (m MountPoint) mount(root string) error {
	target := filepath.Join(root, m.Target)
	if m.Key != "rootfs" {
		inside, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		err = inside.MkdirAll(strings.TrimPrefix(filepath.Clean(m.Target), "/"), 0o755)
		if err := errors.Join(err, inside.Close()); err != nil {
			return host.Dief("%s: %w", m.Key, err)
		}
	}
	source, err := m.source()
	if err != nil {
		return err
	}
	st, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) && m.Bind() {
		return host.Dief("directory '%s' does not exist", m.Volume)
	}
	if err != nil {
		return host.Dief("%w", err)
	}
	if !st.IsDir() {
		return loopMount(source, target, m.Opts["ro"] == "1")
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return host.Dief("failed to bind mount '%s': %w", source, err)
	}
	if m.Opts["ro"] != "1" {
		return nil
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

func (m MountPoint) source() (string, error) {
	if m.Bind() {
		real, err := filepath.EvalSymlinks(m.Volume)
		if err == nil && real != filepath.Clean(m.Volume) {
			return "", host.Dief("symlink encountered at: %s", m.Volume)
		}
		return m.Volume, nil
	}
	v, err := storage.Parse(m.Volume)
	if err != nil {
		return "", err
	}
	return v.Path()
}

// loopMount mounts an image; its loop device goes with the mount.
func loopMount(image, target string, ro bool) error {
	options := "loop"
	if ro {
		options += ",ro"
	}
	out, err := exec.Command("mount", "-t", "ext4", "-o", options, image, target).CombinedOutput()
	if err != nil {
		return host.Dief("command 'mount -o %s %s %s' failed: %w: %s", options, image, target, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Unmount takes all of it away, and what others mounted over it.
func Unmount(root string) error {
	for {
		err := unix.Unmount(root, unix.MNT_DETACH)
		if err == unix.EINVAL || err == unix.ENOENT {
			return nil // nothing is mounted
		}
		if err != nil {
			return err
		}
	}
}
