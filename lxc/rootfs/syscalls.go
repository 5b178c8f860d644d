package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

const (
	maxOption = 255 // bytes in a value, see fsconfig(2)
	emptyPath = unix.AT_EMPTY_PATH
	// propagationTypes are those that a mount can be changed to.
	propagationTypes = unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_SHARED | unix.MS_UNBINDABLE
	// everyAttr is each attribute that mount_setattr(2) clears, without those
	// that a file system may not know (nosymfollow needs Linux 5.14).
	everyAttr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
		unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR__ATIME
)

// clone returns a detached copy of the mount that path leads to (relative to
// dir, symlinks followed), or of what dir is itself if path is "". It needs
// Linux 5.2 (open_tree(2)), and a mount of the thread's own mount namespace.
func clone(dir handle, path string, recursive bool) (handle, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.O_CLOEXEC)
	if path == "" {
		flags |= emptyPath
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.OpenTree(int(dir), path, flags)
		return err
	})
	if err != nil {
		return none, err
	}
	return handle(fd), nil
}

// move attaches a detached mount. It needs Linux 5.2 (move_mount(2)).
func move(mount, dest handle) error {
	return unix.MoveMount(int(mount), "", int(dest), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// setAttr changes the attributes of a mount, with those below it if
// recursive. It needs Linux 5.12 (mount_setattr(2)).
func setAttr(mount handle, set, clr uint64, recursive bool) error {
	if (set|clr)&unix.MOUNT_ATTR__ATIME != 0 {
		clr |= unix.MOUNT_ATTR__ATIME // an enumeration: changed as a whole
	}
	if set == 0 && clr == 0 {
		return nil
	}
	return mountSetattr(mount, &unix.MountAttr{Attr_set: set, Attr_clr: clr}, recursive)
}

// setPropagation changes how mounts propagate: one of propagationTypes, with
// MS_REC if recursive.
func setPropagation(mount handle, propagation uint64) error {
	attr := &unix.MountAttr{Propagation: propagation & propagationTypes}
	return mountSetattr(mount, attr, propagation&unix.MS_REC != 0)
}

func mountSetattr(mount handle, attr *unix.MountAttr, recursive bool) error {
	flags := uint(emptyPath)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(mount), "", flags, attr); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return fmt.Errorf("mount_setattr needs Linux 5.12: %w", err)
		}
		return fmt.Errorf("set the attributes of the mount: %w", err)
	}
	return nil
}

// superblock is a new file system.
type superblock struct {
	fsType  string
	source  string
	options []oci.FSOption
	context *os.File // opened by another process; nil to open one
}

// mount makes the file system, and a detached mount of it with attr
// (MOUNT_ATTR_). It needs Linux 5.2 (fsopen(2), fsmount(2)). The thread's
// namespaces decide which mqueue, sysfs or cgroup it is.
func (s superblock) mount(attr uint64) (handle, error) {
	fd, err := s.open()
	if errors.Is(err, unix.ENODEV) {
		return none, fmt.Errorf("file system type %q is not known to the kernel: %w", s.fsType, err)
	}
	if err != nil {
		return none, fmt.Errorf("fsopen %q: %w", s.fsType, err)
	}
	fs := fsContext(fd)
	defer handle(fs).close()
	if err := fs.configure(s); err != nil {
		return none, err
	}
	if err := retry(func() error { return unix.FsconfigCreate(fd) }); err != nil {
		return none, fs.explain(fmt.Sprintf("create the %s file system", s.fsType), err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return none, fs.explain("fsmount", err)
	}
	return handle(mount), nil
}

// open returns a descriptor of the context, the caller's in any case.
func (s superblock) open() (fd int, err error) {
	if s.context == nil {
		return unix.Fsopen(s.fsType, unix.FSOPEN_CLOEXEC)
	}
	err = using(s.context, func(h handle) (err error) {
		fd, err = unix.FcntlInt(uintptr(h), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// reconfigure changes the options of the file system that mount shows. It
// needs Linux 5.2 (fspick(2)).
func reconfigure(mount handle, options []oci.FSOption) error {
	fd, err := unix.Fspick(int(mount), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("fspick: %w", err)
	}
	fs := fsContext(fd)
	defer handle(fs).close()
	if err := fs.configure(superblock{options: options}); err != nil {
		return err
	}
	if err := retry(func() error { return unix.FsconfigReconfigure(fd) }); err != nil {
		return fs.explain("reconfigure the file system", err)
	}
	return nil
}

// fsContext is a file system that is being configured.
type fsContext handle

func (fs fsContext) configure(s superblock) error {
	if s.source != "" {
		if err := unix.FsconfigSetString(int(fs), "source", s.source); err != nil {
			return fs.explain(fmt.Sprintf("source %q", s.source), err)
		}
	}
	for _, o := range s.options {
		if err := fs.set(o); err != nil {
			return err
		}
	}
	return nil
}

func (fs fsContext) set(o oci.FSOption) error {
	if o.Flag {
		if err := unix.FsconfigSetFlag(int(fs), o.Key); err != nil {
			return fs.explain(fmt.Sprintf("option %q", o.Key), err)
		}
		return nil
	}
	if err := unix.FsconfigSetString(int(fs), o.Key, o.Value); err != nil {
		if len(o.Value) > maxOption {
			err = fmt.Errorf("longer than the %d bytes that fsconfig takes: %w", maxOption, err)
		}
		return fs.explain(fmt.Sprintf("option %q", o.Key+"="+o.Value), err)
	}
	return nil
}

// explain adds what the kernel says about err, as in "tmpfs: Bad value for
// 'mode'" (read(2) on the context; one message for each call).
func (fs fsContext) explain(what string, err error) error {
	var said []string
	buf := make([]byte, 1024)
	for range 16 {
		n, rerr := unix.Read(int(fs), buf)
		if rerr != nil || n <= 0 {
			break // ENODATA: that was all
		}
		message := strings.TrimSpace(string(buf[:n]))
		if level, text, ok := strings.Cut(message, " "); ok && len(level) == 1 {
			message = text
		}
		said = append(said, message)
	}
	if len(said) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %s: %w", what, strings.Join(said, "; "), err)
}
