package rootfs

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

const ptmxPath = "/dev/ptmx"

// populateDev makes the device nodes, and the links of every OCI /dev.
func (b *builder) populateDev() error {
	create := b.makeDevices
	if !b.plan.IDMap.IsZero() {
		create = b.makeNodes
	}
	if err := create(); err != nil {
		return err
	}
	if b.plan.BoundDev {
		return nil
	}
	dev, _, err := ensure(b.root, "/dev", what{})
	if err != nil {
		return fmt.Errorf("open /dev: %w", err)
	}
	defer dev.close()
	return b.linkDev(dev)
}

// linkDev makes the links that the runtime-spec wants ("Default Devices",
// "Dev symbolic links"). What the image has under these names stays, but
// for ptmx, which has to be the one of the container's devpts.
func (b *builder) linkDev(dev handle) error {
	if err := unix.Unlinkat(int(dev), "ptmx", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove /dev/ptmx: %w", err)
	}
	links := [][2]string{
		{"ptmx", "pts/ptmx"},
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
	}
	if err := unix.Faccessat(int(b.procfs), "kcore", unix.F_OK, 0); err == nil {
		links = append(links, [2]string{"core", "/proc/kcore"})
	}
	for _, l := range links {
		if err := unix.Symlinkat(l[1], int(dev), l[0]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("symlink /dev/%s: %w", l[0], err)
		}
	}
	return nil
}

// makeDevices makes the nodes. Where two have one path, the later is meant.
func (b *builder) makeDevices() error {
	last := make(map[string]int, len(b.plan.Devices))
	for i, d := range b.plan.Devices {
		last[d.Path] = i
	}
	var dir handle = none
	var dirPath string
	defer func() { dir.close() }()
	for i, d := range b.plan.Devices {
		if last[d.Path] != i || !b.plan.BoundDev && d.Path == ptmxPath {
			continue
		}
		if parent := path.Dir(d.Path); parent != dirPath || dir == none {
			h, _, err := ensure(b.root, parent, what{})
			if err != nil {
				return fmt.Errorf("linux.devices: %q: open the directory: %w", d.Path, err)
			}
			dir.close()
			dir, dirPath = h, parent
		}
		if err := makeDevice(dir, d); err != nil {
			return fmt.Errorf("linux.devices: %q: %w", d.Path, err)
		}
	}
	return nil
}

// makeDevice makes one node. One that exists stays, as with runc.
func makeDevice(dir handle, d oci.Device) error {
	types := map[rune]uint32{'c': unix.S_IFCHR, 'u': unix.S_IFCHR, 'b': unix.S_IFBLK, 'p': unix.S_IFIFO}
	mode := types[d.Type] | d.Mode&0o7777 // as it is: the thread has no umask
	dev := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	name := path.Base(d.Path)
	err := unix.Mknodat(int(dir), name, mode, int(dev))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	h, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open the new node: %w", err)
	}
	defer h.close()
	if st, err := h.stat(); err != nil || (st.Mode^mode)&unix.S_IFMT != 0 || st.Rdev != dev && d.Type != 'p' {
		return fmt.Errorf("the new node was replaced: %w", errors.Join(err, unix.ESTALE))
	}
	if err := unix.Fchownat(int(h), "", int(d.UID), int(d.GID), emptyPath); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	return nil
}
