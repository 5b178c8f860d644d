package pve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
)

// Remove removes a CT, whose lxc.include must be the file given; it is ended
// first, if need be. One that is not there, or is somebody else's by now, is no error. ErrUnavailable
// if it can not be removed now: another process works on it, it is locked, or
// the cluster has no quorum. GC does it later.
func (n *Node) Remove(ctx context.Context, vmid int, include string) error {
	l, err := n.lock(ctx, vmid)
	if err != nil {
		return err
	}
	defer l.release()
	conf, err := n.conf(vmid)
	if errors.Is(err, errdefs.ErrNotFound) {
		return removeIfThere(n.lxcLock(vmid)) // pct destroy leaves it
	}
	if err != nil {
		return err
	}
	if !conf.isOurs(n.Name, vmid) || conf.include() != include {
		log.G(ctx).WithField("vmid", vmid).Info("the CT is not ours any more: left alone")
		return nil
	}
	return n.remove(ctx, vmid, conf)
}

// remove needs the lock.
func (n *Node) remove(ctx context.Context, vmid int, conf *Conf) error {
	if lock := conf.Get("lock"); lock != "" {
		return fmt.Errorf("CT is locked (%s): CT %d: %w", lock, vmid, errdefs.ErrUnavailable)
	}
	if err := n.stop(ctx, vmid); err != nil {
		return err
	}
	if err := n.removeConf(vmid); err != nil {
		return err
	}
	// The CT is gone. Its VMID is not given again while something is left.
	if err := n.sweep(vmid); err != nil {
		log.G(ctx).WithError(err).WithField("vmid", vmid).Warn("files of a CT are left")
	}
	return nil
}

// removeConf fails with ErrUnavailable, whatever the cluster's file system
// says: that is not the container's fault, and gc tries again.
func (n *Node) removeConf(vmid int) error {
	path := n.confPath(vmid)
	err := errors.Join(removeIfThere(path+temporarySuffix), removeIfThere(path))
	if err == nil {
		return nil
	}
	if err = clusterError(err); !errors.Is(err, errdefs.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("remove the configuration of CT %d: %w", vmid, err)
}

// lxcLock is the file that liblxc locks a container by (lxclock.c).
func (n *Node) lxcLock(vmid int) string {
	return filepath.Join("/run/lxc/lock", n.LXC, "."+strconv.Itoa(vmid))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes the files that Proxmox and LXC keep of a CT without volumes, as
// pct destroy does. What it does not know it leaves.
func (n *Node) sweep(vmid int) error {
	id := strconv.Itoa(vmid)
	dir := filepath.Join(n.LXC, id)
	paths := []string{
		filepath.Join(n.Run, "ct-"+id+".stderr"), filepath.Join(n.Run, "ct-"+id+".warnings"),
		filepath.Join(n.Etc, "firewall", id+".fw"),
		n.lxcLock(vmid),
	}
	for _, name := range []string{"config", "devices", "reboot", "rules.seccomp", "apparmor", "passthrough", "rootfs"} {
		paths = append(paths, filepath.Join(dir, name))
	}
	var errs []error
	for _, p := range append(paths, dir) {
		errs = append(errs, removeIfThere(p))
	}
	if err := errors.Join(append(errs, removeGroups(vmid))...); err != nil {
		return fmt.Errorf("files of CT %d: %w", vmid, err)
	}
	return nil
}

// removeGroups removes the control groups that an LXC which was killed leaves.
func removeGroups(vmid int) error {
	id := strconv.Itoa(vmid)
	var errs []error
	for _, group := range []string{"lxc/" + id + "/ns", "lxc/" + id, "lxc.monitor/" + id} {
		errs = append(errs, cgroup.RemoveEmpty(group))
	}
	return errors.Join(errs...)
}

// mark notes which CT a container has, until the next reboot, so that what is
// left of it is found without reading every CT's configuration.
func (n *Node) mark(namespace, id string, vmid int) error {
	if err := os.MkdirAll(filepath.Join(n.Keep, namespace), 0o700); err != nil {
		return err
	}
	path := n.marker(namespace, id)
	if err := removeIfThere(path); err != nil {
		return err
	}
	return os.Symlink(strconv.Itoa(vmid), path)
}

func (n *Node) marker(namespace, id string) string { return filepath.Join(n.Keep, namespace, id) }

// Unmark forgets the mark, if it is of this CT.
func (n *Node) Unmark(namespace, id string, vmid int) error {
	if n.marked(namespace, id) != vmid {
		return nil
	}
	return removeIfThere(n.marker(namespace, id))
}

// marked returns 0 without a mark.
func (n *Node) marked(namespace, id string) int {
	link, err := os.Readlink(n.marker(namespace, id))
	if err != nil {
		return 0
	}
	vmid, _ := strconv.Atoi(link) // only mark makes them
	return vmid
}

// removeLeftover removes the CT of a former container of the same name, whose
// removal could not be done at its end.
func (n *Node) removeLeftover(ctx context.Context, c *Config) error {
	vmid := n.marked(c.Namespace, c.ID)
	if vmid == 0 {
		return nil
	}
	if err := n.Remove(ctx, vmid, c.include(n.Name, vmid)); err != nil {
		// It is in nobody's way: the new one has another VMID.
		log.G(ctx).WithError(err).WithField("vmid", vmid).Warn("a CT of a former container is left for gc")
	}
	return n.Unmark(c.Namespace, c.ID, vmid)
}

// GC removes the CTs of ours on this node that are not in use; inUse tells by
// the directory of the container that the CT was made for. What can not be
// removed is in the error, and the others are removed nevertheless.
func (n *Node) GC(ctx context.Context, inUse func(stateDir string, vmid int) bool) (removed []int, err error) {
	errs := []error{n.collectUnwritten(ctx)}
	ids, err := n.CTs()
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, vmid := range ids {
		done, err := n.collect(ctx, vmid, inUse)
		if err != nil {
			errs = append(errs, fmt.Errorf("CT %d: %w", vmid, err))
		}
		if done {
			removed = append(removed, vmid)
		}
	}
	return removed, errors.Join(errs...)
}

func (n *Node) collect(ctx context.Context, vmid int, inUse func(string, int) bool) (bool, error) {
	garbage := func() (*Conf, bool, error) {
		conf, err := n.conf(vmid)
		if err != nil {
			if errors.Is(err, errdefs.ErrNotFound) {
				err = nil
			}
			return nil, false, err
		}
		return conf, conf.isOurs(n.Name, vmid) && !inUse(filepath.Dir(conf.include()), vmid), nil
	}
	if _, yes, err := garbage(); err != nil || !yes {
		return false, err
	}
	l, err := n.lock(ctx, vmid)
	if err != nil {
		return false, err
	}
	defer l.release()
	// What is being created is on record once its lock is free.
	conf, yes, err := garbage()
	if err != nil || !yes {
		return false, err
	}
	if err := n.remove(ctx, vmid, conf); err != nil {
		return false, err
	}
	// The include file is in the container's own directory, NAMESPACE/ID.
	dir := filepath.Dir(conf.include())
	return true, n.Unmark(filepath.Base(filepath.Dir(dir)), filepath.Base(dir), vmid)
}
