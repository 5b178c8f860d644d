package lxc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// namespaceFlags are the types as ioctl_ns(2) has them.
var namespaceFlags = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// checkNamespaces finds that what is to be joined is there and is of its type.
// LXC would join a namespace of another one.
func checkNamespaces(plan *oci.Plan) error {
	for kind, ns := range plan.Namespaces {
		if ns.Path == "" {
			continue
		}
		if err := isNamespace(ns.Path, namespaceFlags[kind]); err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", kind, err)
		}
	}
	return nil
}

// isNamespace opens without waiting: what is at the path may be a FIFO.
func isNamespace(path string, flag int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("%s is not a namespace: %w", path, err)
	}
	if got != flag {
		return fmt.Errorf("%s is a namespace of another type", path)
	}
	return nil
}

// ownCgroupNamespace is the shim's, for a container that has none of its own:
// where LXC joins another namespace, it makes a cgroup namespace as well (seen
// with LXC 5.0.2 and 6.0.4), whose root is lxc-start's group. Not /proc/self: the first thread may be one that
// has joined a container's namespaces.
const ownCgroupNamespace = "/proc/thread-self/ns/cgroup"

// enterNamespaces makes and joins the namespaces that are not LXC's: cgroup
// and time. The helper must be in its group.
func (c *creation) enterNamespaces(ctx context.Context) error {
	unshare := 0
	var ops []initop.Op
	var files []*os.File
	defer func() { closeAll(files) }()
	for _, kind := range []specs.LinuxNamespaceType{specs.CgroupNamespace, specs.TimeNamespace} {
		ns, ok := c.plan.Namespaces[kind]
		if !ok && kind == specs.CgroupNamespace {
			var err error
			if ok, err = c.strayedCgroupNamespace(); err != nil {
				return fmt.Errorf("linux.namespaces: %w", err)
			}
			ns.Path = ownCgroupNamespace
		}
		switch {
		case !ok:
		case ns.Path == "":
			unshare |= namespaceFlags[kind]
		default:
			f, err := os.Open(ns.Path)
			if err != nil {
				return fmt.Errorf("linux.namespaces: %s: %w", kind, err)
			}
			ops = append(ops, initop.SetNS(initop.FD(len(files)), namespaceFlags[kind]))
			files = append(files, f)
		}
	}
	if unshare != 0 {
		ops = append(ops, initop.Unshare(unshare))
	}
	if len(ops) == 0 {
		return nil
	}
	if err := c.conn.Run(ctx, ops, files...); err != nil {
		return fmt.Errorf("linux.namespaces: %w", err)
	}
	if unshare&unix.CLONE_NEWTIME != 0 {
		return c.enterTime(ctx)
	}
	return nil
}

// strayedCgroupNamespace says whether the helper has left the shim's cgroup
// namespace, and is to go back. From a user namespace there is no way: there a
// container whose groups are LXC's would see the wrong ones.
func (c *creation) strayedCgroupNamespace() (bool, error) {
	if !c.joinsNamespaces() {
		return false, nil
	}
	own, err := os.Stat(ownCgroupNamespace)
	if err != nil {
		return false, err
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/cgroup", c.Init.pid))
	if err != nil {
		return false, err
	}
	switch {
	case os.SameFile(own, its):
		return false, nil
	case !c.plan.UserNamespace():
		return true, nil
	case !c.request.Host.MakesGroup():
		return false, nil
	}
	return false, fmt.Errorf(`a "cgroup" namespace is needed: LXC makes one on Proxmox VE for a container that joins namespaces, and a user namespace does not let it go back: %w`, errdefs.ErrNotImplemented)
}

func (c *creation) joinsNamespaces() bool {
	for _, ns := range c.plan.Namespaces {
		if ns.Path != "" {
			return true
		}
	}
	return false
}

// enterTime sets the offsets of the time namespace that the helper has made,
// and lets the helper enter it: a process does not by unshare(2) alone, and
// the offsets can not be set any more when it has (time_namespaces(7)).
func (c *creation) enterTime(ctx context.Context) error {
	proc := filepath.Join("/proc", strconv.Itoa(c.Init.pid))
	if text := c.plan.TimeOffsets; text != "" {
		if err := os.WriteFile(filepath.Join(proc, "timens_offsets"), []byte(text), 0); err != nil {
			return fmt.Errorf("linux.timeOffsets: %q: %w", text, err)
		}
	}
	ns, err := os.Open(filepath.Join(proc, "ns", "time_for_children"))
	if err != nil {
		return fmt.Errorf("linux.namespaces: %w", err)
	}
	defer ns.Close()
	return c.conn.Run(ctx, []initop.Op{initop.SetNS(0, unix.CLONE_NEWTIME)}, ns)
}
