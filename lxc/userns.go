package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/idrange"
	"github.com/cageforge/containerd-shim-nexcage/lxc/rootfs"
	"github.com/cageforge/containerd-shim-nexcage/lxc/userns"
	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// UserNS says what user namespace a container gets whose spec asks for none.
type UserNS struct {
	Auto   bool // one of its own, if it can have one (oci.OwnUserNamespace)
	Ranges idrange.Source
	Plain  bool // none, with a warning, where a file system can not be idmapped; else that is an error
}

// ownUserNamespace gives the container a user namespace of its own, if it is to
// and can have one.
func (c *creation) ownUserNamespace(ctx context.Context) error {
	if !c.request.UserNS.Auto {
		return nil
	}
	logger := log.G(ctx).WithField("id", c.request.ID)
	if why, ok := oci.OwnUserNamespace(c.spec); !ok {
		logger.WithField("reason", why).Info("no user namespace of its own for the container")
		return nil
	}
	if c.record.Volume {
		if !c.request.UserNS.Plain {
			return fmt.Errorf("user namespace of its own: %w", errVolume)
		}
		logger.WithError(errVolume).Warn("the container runs without a user namespace of its own")
		return nil
	}
	ids, err := c.request.UserNS.Ranges.Take(c.request.StateDir)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	c.record.IDRange = &ids
	c.onFailure(func(context.Context) error { return ids.Free() })
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	err = c.shift(ctx, ids.Map())
	if err == nil {
		logger.WithField("ids", ids.Map().String()).Debug("user namespace of its own")
		return nil
	}
	err = fmt.Errorf("user namespace of its own: %w", err)
	if !c.request.UserNS.Plain || !cannotShift(err) {
		return err
	}
	logger.WithError(err).Warn("the container runs without one")
	return c.unshift(ids)
}

var errNoSnapshot = fmt.Errorf("the root file system is not the snapshot of an image, and is not idmapped: %w", errdefs.ErrFailedPrecondition)

var errVolume = fmt.Errorf("the root file system is a volume of Proxmox, and is not idmapped: %w", errdefs.ErrFailedPrecondition)

// cannotShift says whether the kernel or a file system is the reason.
func cannotShift(err error) bool {
	var idmap *rootfs.IDMapError
	return errors.As(err, &idmap) || errors.Is(err, errNoSnapshot) || errors.Is(err, userns.ErrUnavailable)
}

// shift does all that may find that the container can not have the namespace.
func (c *creation) shift(ctx context.Context, ids oci.IDMap) error {
	if err := c.setPlan(oci.WithUserNamespace(c.spec, ids, rootfs.Ownerless)); err != nil {
		return err
	}
	if err := c.resolveIDs(ctx); err != nil {
		return err
	}
	if err := c.openBundle(ids); err != nil {
		return err
	}
	if c.record.Rootfs == "" {
		return errNoSnapshot
	}
	return c.mountWith(func() error {
		users, err := c.userNamespace(ctx, ids)
		if err != nil {
			return err
		}
		c.mounted = true
		return rootfs.MountSnapshot(c.request.Rootfs, c.record.Rootfs, ids, users)
	})
}

// openBundle lets the createContainer hooks, which run as the container's root,
// use the bundle as their working directory. containerd does the same if it is
// the spec that has a user namespace.
func (c *creation) openBundle(ids oci.IDMap) error {
	if c.plan.Hooks == nil || len(c.plan.Hooks.CreateContainer) == 0 {
		return nil
	}
	gid, _ := ids.HostGID(0)
	return errors.Join(os.Lchown(c.request.Bundle, -1, int(gid)), os.Chmod(c.request.Bundle, 0o710))
}

// unshift takes back what a shift that failed has done.
func (c *creation) unshift(ids idrange.Range) error {
	c.closeUsers()
	c.record.IDRange, c.mounted = nil, false
	errs := []error{ids.Free()}
	if c.record.Rootfs != "" {
		errs = append(errs, mount.UnmountRecursive(c.record.Rootfs, 0))
	}
	return errors.Join(append(errs, c.setPlan(c.spec), c.request.Save(c.record))...)
}

// resolveIDs finds the mapping of a user namespace that is joined, and the
// namespaces that idmapped mounts need. Once it has run, the owners of files
// are known.
func (c *creation) resolveIDs(ctx context.Context) error {
	if c.users != nil {
		return nil
	}
	if path := c.plan.Namespaces[specs.UserNamespace].Path; path != "" {
		m, err := userns.Map(ctx, c.request.Joiner, path)
		if err != nil {
			return fmt.Errorf("linux.namespaces: user: %w", err)
		}
		if err := c.plan.SetIDMap(m); err != nil {
			return err
		}
	}
	c.users = map[string]*os.File{}
	c.onFailure(func(context.Context) error { c.closeUsers(); return nil })
	byMount, err := c.mountUsers(ctx)
	if err != nil {
		return err
	}
	return rootfs.CheckIDMaps(c.plan, byMount)
}

// mountUsers are the user namespaces of the idmapped mounts, by place.
func (c *creation) mountUsers(ctx context.Context) (map[int]*os.File, error) {
	users := map[int]*os.File{}
	for i, m := range c.plan.Mounts {
		if m.IDMap == nil {
			continue
		}
		ids := m.IDMap.Map
		if ids.IsZero() {
			ids = c.plan.IDMap
		}
		var err error
		if users[i], err = c.userNamespace(ctx, ids); err != nil {
			return nil, fmt.Errorf("mounts[%d]: %w", m.Index, err)
		}
	}
	return users, nil
}

// userNamespace is one with that mapping, which closeUsers closes.
func (c *creation) userNamespace(ctx context.Context, ids oci.IDMap) (*os.File, error) {
	if f, ok := c.users[ids.String()]; ok {
		return f, nil
	}
	f, err := userns.New(ctx, c.request.Joiner, ids)
	if err != nil {
		return nil, err
	}
	c.users[ids.String()] = f
	return f, nil
}

func (c *creation) closeUsers() {
	for _, f := range c.users {
		_ = f.Close() // a namespace has nothing to flush
	}
	c.users = nil
}

// target is the helper for package rootfs, with what the helper has to open
// in its user namespace.
func (c *creation) target(ctx context.Context) (t rootfs.Target, err error) {
	t = rootfs.Target{PID: c.Init.pid, PIDFD: c.Init.pidfd, IDs: c.plan.IDMap, Contexts: map[int]*os.File{}}
	if t.Users, err = c.mountUsers(ctx); err != nil {
		return t, err
	}
	for i, fsType := range rootfs.Contexts(c.plan) {
		if t.Contexts[i], err = c.conn.Open(ctx, fsType); err != nil {
			return t, errors.Join(fmt.Errorf("mounts[%d]: %w", c.plan.Mounts[i].Index, err), closeContexts(t))
		}
	}
	return t, nil
}

func closeContexts(t rootfs.Target) (err error) {
	for _, f := range t.Contexts {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// openBase gives the base directory and the socket in it to the root of the
// user namespace: LXC and the helper use them with its rights.
func (c *creation) openBase(l *helper.Listener) error {
	if !c.plan.UserNamespace() {
		return nil
	}
	uid, gid := c.hostOwner(specs.User{})
	return errors.Join(
		os.Chmod(c.record.StateDir, 0o711),
		searchable(filepath.Dir(string(c.record.base()))),
		c.record.base().Own(int(uid), int(gid)),
		l.Own(uid, gid),
	)
}

// searchable finds directories on the way that not everyone may search.
func searchable(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		if st.Mode&0o001 == 0 {
			return fmt.Errorf("%s: a container with a user namespace needs the right to search it (chmod o+x): %w", dir, errdefs.ErrFailedPrecondition)
		}
		if dir == "/" {
			return nil
		}
	}
}

// hostOwner is what the host knows a user and group of the container as.
func (c *Container) hostOwner(u specs.User) (uid, gid uint32) {
	if c.plan.IDMap.IsZero() {
		return u.UID, u.GID
	}
	uid, _ = c.plan.IDMap.HostUID(u.UID) // both were found to be mapped
	gid, _ = c.plan.IDMap.HostGID(u.GID)
	return uid, gid
}

// setLimits sets the limits of a process of a user namespace, which may not
// raise its own hard limits. All it still does is to execute the program.
func (c *Container) setLimits(pid int, p *specs.Process) error {
	if !c.plan.UserNamespace() {
		return nil
	}
	for i, l := range oci.Rlimits(p) {
		limit := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(pid, l.Resource, &limit, nil); err != nil {
			return fmt.Errorf("process.rlimits[%d]: %q: %w", i, p.Rlimits[i].Type, err)
		}
	}
	return nil
}
