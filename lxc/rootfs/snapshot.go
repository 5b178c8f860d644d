package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// MountSnapshot mounts a snapshot on target, as mount.All does, for a user
// namespace with the mapping ids, of which users is one: files keep their
// owners on disk. What can not be idmapped is an IDMapError.
//
// An overlay can not be idmapped itself (as of Linux 6.18), but its layers
// can, since Linux 5.19. If it fails, something may be mounted on target.
func MountSnapshot(mounts []mount.Mount, target string, ids oci.IDMap, users *os.File) error {
	if len(mounts) == 1 && mounts[0].Type == "overlay" {
		o, err := parseOverlay(mounts[0].Options)
		if err != nil {
			return err
		}
		return onThread(func() error { return o.mount(target, ids, users) })
	}
	if err := mount.All(mounts, target); err != nil {
		return err
	}
	return idmapInPlace(target, users)
}

// idmapInPlace replaces a mount by an idmapped one of the same.
func idmapInPlace(target string, users *os.File) error {
	tree, err := clone(unix.AT_FDCWD, target, true)
	if err != nil {
		return fmt.Errorf("clone the snapshot: %w", err)
	}
	defer tree.close()
	if err := setIDMap(tree, target, users, true); err != nil {
		return err
	}
	if err := mount.UnmountRecursive(target, 0); err != nil {
		return err
	}
	return attachAt(tree, target)
}

func attachAt(tree handle, target string) error {
	dest, err := openat(unix.AT_FDCWD, target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer dest.close()
	if err := move(tree, dest); err != nil {
		return fmt.Errorf("attach the snapshot: %w", err)
	}
	return nil
}

// overlay is what a snapshotter says about an overlay mount.
type overlay struct {
	lower       []string
	upper, work string
	flags       uintptr
	data        []string // what goes to the file system as it is
}

// overlayFlags are the options of mounts that snapshotters use.
var overlayFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "relatime": unix.MS_RELATIME, "nodiratime": unix.MS_NODIRATIME,
}

func parseOverlay(options []string) (o overlay, err error) {
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		flag, isFlag := overlayFlags[option]
		switch {
		case key == "lowerdir":
			o.lower, err = splitLayers(value)
		case key == "upperdir":
			o.upper = value
		case key == "workdir":
			o.work = value
		case isFlag:
			o.flags |= flag
		default:
			o.data = append(o.data, option)
		}
	}
	switch {
	case err != nil:
		return o, err
	case len(o.lower) == 0:
		return o, fmt.Errorf("overlay without lowerdir: %w", errdefs.ErrInvalidArgument)
	case strings.ContainsAny(filepath.Base(o.upper)+filepath.Base(o.work), `,\`):
		return o, fmt.Errorf("overlay: upperdir %q, workdir %q: can not be written to the options of a mount: %w", o.upper, o.work, errdefs.ErrInvalidArgument)
	case filepath.Dir(o.upper) != filepath.Dir(o.work):
		// One mount has to hold both, and it is that of their directory.
		return o, &IDMapError{Path: o.upper, FS: "overlay", Err: errors.New("upperdir and workdir are not in one directory")}
	}
	return o, nil
}

// splitLayers splits at colons. A directory with one, or with a backslash, is
// none that a snapshotter makes.
func splitLayers(value string) ([]string, error) {
	if strings.Contains(value, `\`) || strings.Contains(value, "::") {
		return nil, fmt.Errorf("overlay: lowerdir=%s: data layers and escapes are not supported: %w", value, errdefs.ErrInvalidArgument)
	}
	return strings.Split(value, ":"), nil
}

// layer is a mount that the overlay is made of, in the scratch directory.
type layer struct {
	tree handle
	name string
}

// mount makes the overlay in a mount namespace of the thread's own, in which
// its layers have short names and from which nothing is left, and moves it to
// the host's.
func (o overlay) mount(target string, ids oci.IDMap, users *os.File) error {
	host, err := openat(unix.AT_FDCWD, "/proc/thread-self/ns/mnt", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer host.close()
	layers, options, err := o.layers(users)
	defer func() {
		for _, l := range layers {
			l.tree.close()
		}
	}()
	if err != nil {
		return err
	}
	tree, err := o.make(target, ids, layers, options)
	if errors.Is(err, unix.EINVAL) {
		return &IDMapError{Path: target, FS: "overlay", Err: fmt.Errorf("layers that are idmapped need Linux 5.19: %w", err)}
	}
	if err != nil {
		return fmt.Errorf("overlay of idmapped layers: %w", err)
	}
	defer tree.close()
	if err := unix.Setns(int(host), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("return to the host's mount namespace: %w", err)
	}
	return attachAt(tree, target)
}

// layers clones the layers with their ids mapped, and names them in options.
func (o overlay) layers(users *os.File) (layers []layer, options string, err error) {
	take := func(path, name string) error {
		tree, err := clone(unix.AT_FDCWD, path, false)
		if err != nil {
			return fmt.Errorf("open %q: %w", path, err)
		}
		layers = append(layers, layer{tree, name})
		return errors.Join(setPropagation(tree, unix.MS_PRIVATE), setIDMap(tree, path, users, false))
	}
	var names []string
	for i, path := range o.lower {
		names = append(names, strconv.Itoa(i))
		if err := take(path, names[i]); err != nil {
			return layers, "", err
		}
	}
	all := append([]string{"lowerdir=" + strings.Join(names, ":")}, o.data...)
	if o.upper != "" {
		if err := take(filepath.Dir(o.upper), "rw"); err != nil {
			return layers, "", err
		}
		all = append(all, "upperdir=rw/"+filepath.Base(o.upper), "workdir=rw/"+filepath.Base(o.work))
	}
	return layers, strings.Join(all, ","), nil
}

// make leaves the thread in a mount namespace of its own.
func (o overlay) make(scratch string, ids oci.IDMap, layers []layer, options string) (handle, error) {
	if err := enterScratch(scratch); err != nil {
		return none, err
	}
	for _, l := range layers {
		if err := unix.Mkdir(l.name, 0o700); err != nil {
			return none, err
		}
		if err := attachAt(l.tree, l.name); err != nil {
			return none, err
		}
	}
	// Who makes an overlay works in its layers: the host's root has no id
	// there.
	if err := actAsRootOf(ids); err != nil {
		return none, err
	}
	if err := unix.Mount("overlay", "merged", "overlay", o.flags, options); err != nil {
		return none, fmt.Errorf("mount with %q: %w", options, err)
	}
	tree, err := clone(unix.AT_FDCWD, "merged", false)
	if err != nil {
		return none, err
	}
	return tree, setPropagation(tree, unix.MS_PRIVATE)
}

func enterScratch(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "") },
		func() error { return unix.Mount("layers", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700") },
		func() error { return unix.Chdir(dir) },
		func() error { return unix.Mkdir("merged", 0o700) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("scratch directory %s: %w", dir, err)
		}
	}
	return nil
}
