// Package userns makes user namespaces that have no process, for idmapped
// mounts, and reads the mapping of those that exist.
//
// Only a process without threads can enter a user namespace, so a helper does
// it (package helper), for as long as the namespace is looked at.
package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// ErrUnavailable is a kernel in which nobody can make a user namespace.
var ErrUnavailable = errors.New("is user.max_user_namespaces 0, or the kernel without user namespaces?")

// New makes a user namespace with that mapping. It lives for as long as the
// file, or an idmapped mount.
func New(ctx context.Context, j *helper.Joiner, m oci.IDMap) (ns *os.File, err error) {
	err = inside(ctx, j, []initop.Op{initop.Unshare(unix.CLONE_NEWUSER)}, nil, func(proc string) error {
		if err := write(filepath.Join(proc, "uid_map"), m.UIDs); err != nil {
			return err
		}
		if err := write(filepath.Join(proc, "gid_map"), m.GIDs); err != nil {
			return err
		}
		ns, err = os.Open(filepath.Join(proc, "ns/user"))
		return err
	})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return ns, nil
}

// write needs one write(2) for the whole map (user_namespaces(7)).
func write(path string, list []specs.LinuxIDMapping) error {
	var text strings.Builder
	for _, r := range list {
		fmt.Fprintf(&text, "%d %d %d\n", r.ContainerID, r.HostID, r.Size)
	}
	return os.WriteFile(path, []byte(text.String()), 0)
}

// Map returns the mapping of the user namespace at path, in ids of the
// caller's.
func Map(ctx context.Context, j *helper.Joiner, path string) (m oci.IDMap, err error) {
	ns, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer ns.Close()
	if same, err := isOwn(ns); err != nil || same {
		return m, errors.Join(err, fmt.Errorf("%s: is the runtime's own user namespace: %w", path, errdefs.ErrInvalidArgument))
	}
	err = inside(ctx, j, []initop.Op{initop.SetNS(0, unix.CLONE_NEWUSER)}, []*os.File{ns}, func(proc string) error {
		if m.UIDs, err = read(filepath.Join(proc, "uid_map")); err != nil {
			return err
		}
		m.GIDs, err = read(filepath.Join(proc, "gid_map"))
		return err
	})
	if err != nil {
		return oci.IDMap{}, fmt.Errorf("join %s: %w", path, err)
	}
	return m, nil
}

// isOwn says whether ns is the caller's, which setns(2) refuses.
func isOwn(ns *os.File) (bool, error) {
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	st, err := ns.Stat()
	return err == nil && os.SameFile(own, st), err
}

func read(path string) (list []specs.LinuxIDMapping, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: %q is no range: %w", path, line, errdefs.ErrInternal)
		}
		var n [3]uint32
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			n[i] = uint32(v)
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return list, nil
}

// inside calls look with the directory in /proc of a process in the
// namespace, which is gone when inside returns.
func inside(ctx context.Context, j *helper.Joiner, ops []initop.Op, files []*os.File, look func(proc string) error) error {
	joined, err := j.Join(ctx, append(ops, initop.Fork()), files...)
	if err != nil {
		return err
	}
	err = look(filepath.Join("/proc", strconv.Itoa(joined.Child.Pid())))
	err = errors.Join(err, joined.Close())
	_ = pidfd.Signal(joined.PIDFD, unix.SIGKILL) // it ends by itself when the connection does
	<-joined.Child.Done()
	return errors.Join(err, joined.PIDFD.Close())
}
