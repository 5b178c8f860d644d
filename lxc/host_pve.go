package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/lxc/systemd"
	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// PVE is a node of Proxmox VE as a Host of one container.
type PVE struct {
	Node     *pve.Node
	Client   *pve.Client
	Helper   string // path of nexcage-init
	Settings pve.Settings
	Told     func() Told // the first call may take a moment
	Volumes  *pve.Volumes
	InUse    func(stateDir string, vmid int) bool // of pve.Sweep

	held *pve.Held // the container's volume; nil without one
}

// Told is what containerd tells of a container besides its bundle.
type Told struct {
	pve.About
	Halt string // signal that asks the container to end, as LXC names it
}

// MakesGroup is so that Proxmox's tools, which ask LXC for the group, find it.
func (h *PVE) MakesGroup() bool { return true }

// Reserve takes a VMID for the container.
func (h *PVE) Reserve(ctx context.Context, c *Config, r *Record, save func() error) error {
	if err := h.checkNets(c.Plan); err != nil {
		return err
	}
	if ns, ok := c.Plan.Namespaces[specs.UserNamespace]; ok && ns.Path == "" {
		if err := h.Node.CheckIDs(c.Plan.IDMap); err != nil {
			return err
		}
	}
	if r.Volume {
		return h.reserveVolume(ctx, c, r, save)
	}
	return h.Node.Reserve(ctx, h.Client, h.config(c, r), func(vmid int) error {
		h.record(c, r, vmid)
		return save()
	})
}

func (h *PVE) record(c *Config, r *Record, vmid int) {
	r.Host, r.Node, r.VMID, r.Keep = HostPVE, h.Node.Name, vmid, h.Node.Keep
	r.LXCPath, r.Name = h.Node.LXC, strconv.Itoa(vmid)
	r.Namespace, r.ID = c.Request.Namespace, c.Request.ID
}

// Start lets pct start the CT.
func (h *PVE) Start(ctx context.Context, c *Config, r *Record) (Instance, error) {
	i, err := h.Node.Start(ctx, h.Client, r.VMID, h.config(c, r))
	if err != nil {
		return nil, err
	}
	if r.Volume {
		return h.volumeInstance(ctx, i, r), nil
	}
	return pveInstance{i}, nil
}

type pveInstance struct{ *pve.Instance }

func (pveInstance) Root() (*os.File, error) { return nil, nil }

// showTimeout bounds the wait for the lock of a CT's configuration, which
// somebody may hold for a backup of it.
const showTimeout = 2 * time.Second

// Show writes limits to the CT's configuration. If that is not possible now the UI
// goes on to show the former ones.
func (h *PVE) Show(ctx context.Context, r *Record, limits *specs.LinuxResources) {
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	if err := h.Node.Show(ctx, r.VMID, r.include(), limits); err != nil {
		log.G(ctx).WithError(err).WithField("vmid", r.VMID).Warn("Proxmox's UI does not show the new limits")
	}
}

// include is the file of LXC's keys of the CT.
func (r *Record) include() string {
	return filepath.Join(r.StateDir, pve.IncludeName(r.Node, r.VMID))
}

// checkNets refuses interfaces of Proxmox for a network namespace that is not
// the container's own.
func (h *PVE) checkNets(plan *oci.Plan) error {
	if ns, ok := plan.Namespaces[specs.NetworkNamespace]; len(h.Settings.Nets) > 0 && (!ok || ns.Path != "") {
		return fmt.Errorf("net%d: the container has no network namespace of its own that Proxmox could put an interface into: %w",
			h.Settings.Nets[0].Index, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (h *PVE) config(c *Config, r *Record) *pve.Config {
	told := h.Told()
	config := &pve.Config{
		About:     told.About,
		Settings:  h.Settings,
		StateDir:  r.StateDir,
		Base:      r.base(),
		Helper:    h.Helper,
		Rootfs:    c.Plan.Root.Path,
		Hostname:  c.Plan.Hostname,
		Resources: c.Plan.Resources,
		Lines:     c.Plan.Config,
		Halt:      told.Halt,
		IDMap:     c.Plan.IDMap,
	}
	// systemd makes its scopes itself, and the helper joins them.
	if c.Plan.CgroupsPath != "" && !systemd.Is(c.Plan.CgroupsPath) {
		config.Cgroup = c.Cgroup
	}
	return config
}

// removeTimeout bounds the removal of a CT that has ended: what holds it up may
// take minutes, as a backup, and is left to gc.
const removeTimeout = 10 * time.Second

// reserve of the time of whoever calls, for what is to be done afterwards.
const removeReserve = 300 * time.Millisecond

// removeCT removes the CT, or leaves it to gc: then the container is gone for
// containerd nevertheless.
func (r *Record) removeCT(ctx context.Context) error {
	node, err := pve.Local(r.Keep)
	if err == nil && node.Name != r.Node {
		err = fmt.Errorf("this node is %s now, CT %d is of %s: %w", node.Name, r.VMID, r.Node, errdefs.ErrUnavailable)
	}
	if err == nil {
		err = r.removeCTFrom(ctx, node)
	}
	if errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, errdefs.ErrFailedPrecondition) {
		log.G(ctx).WithError(err).WithField("vmid", r.VMID).Warn("the CT is left for gc")
		return nil
	}
	return err
}

func (r *Record) removeCTFrom(ctx context.Context, node *pve.Node) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-removeReserve))
		defer cancel()
	}
	// Whether the CT runs, as Proxmox sees it, does not tell whether its hooks do.
	if err := r.Monitor.await(ctx); err != nil {
		return fmt.Errorf("CT %d: Proxmox still cleans up after it: %w: %w", r.VMID, err, errdefs.ErrUnavailable)
	}
	if r.Volume {
		return node.Release(ctx, r.VMID, r.include())
	}
	if err := node.Remove(ctx, r.VMID, r.include()); err != nil {
		return err
	}
	return node.Unmark(r.Namespace, r.ID, r.VMID)
}
