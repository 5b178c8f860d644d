package rootfs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// writeSysctls writes linux.sysctl to the host's procfs, which shows a thread
// the values of the network, ipc and uts namespaces that it has joined: the
// container's own /proc/sys may be read-only. Those of the user namespace are
// not for a thread (oci.Plan.UserSysctl).
func (b *builder) writeSysctls() error {
	if len(b.plan.Sysctl) == 0 {
		return nil
	}
	dir, err := openat(b.procfs, "sys", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open /proc/sys: %w", err)
	}
	defer dir.close()
	if err := b.refuseHostNet(); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(b.plan.Sysctl)) {
		value, err := b.plan.SysctlOnHost(key)
		if err != nil {
			return err
		}
		write := func() error { return writeSysctl(dir, key, value) }
		err = write()
		if !b.plan.IDMap.IsZero() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
			err = asEffectiveRootOf(b.plan.IDMap, write)
		}
		if err != nil {
			return fmt.Errorf("linux.sysctl[%q]: %w", key, err)
		}
	}
	return nil
}

// refuseHostNet refuses, as runc does, the sysctls of a network namespace that
// the container has by path if it is the host's: that is, the shim's.
func (b *builder) refuseHostNet() error {
	now, err := b.namespace("thread-self", "net")
	if err != nil || now != b.hostNet {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(b.plan.Sysctl)) {
		if strings.HasPrefix(key, "net/") {
			return fmt.Errorf("linux.sysctl[%q]: the network namespace is the host's: %w", key, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func writeSysctl(dir handle, path, value string) error {
	how := unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(int(dir), path, &how)
	if err != nil {
		return fmt.Errorf("open /proc/sys/%s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := retry(func() error { _, err := unix.Write(fd, []byte(value)); return err }); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}
