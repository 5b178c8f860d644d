package task

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

// collectTimeout bounds gc, most of all the wait for locks.
const collectTimeout = time.Minute

// GC removes the CTs of ours on this Proxmox node whose container is gone, and
// templates that were not used for long, or are not used if unused. It returns
// their VMIDs. What can not be removed now is in the error.
func GC(ctx context.Context, c *config.Config, unused bool) ([]int, error) {
	node, err := pve.Local(markers(c.StateDir))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	removed, err := node.GC(ctx, inUse)
	more, verr := collectVolumes(ctx, c, node, unused)
	return append(removed, more...), errors.Join(err, verr)
}

func collectVolumes(ctx context.Context, c *config.Config, node *pve.Node, unused bool) ([]int, error) {
	age, err := c.LXC.PVE.MaxAge()
	if err != nil {
		return nil, err
	}
	old := func(pve.Template) bool { return unused }
	if age != 0 && !unused {
		old = pve.UnusedSince(time.Now().Add(-age))
	}
	return volumes(c, node).GC(ctx, pve.Sweep{InUse: inUse, Templates: old})
}

// Template is one of the node's.
type Template struct {
	pve.Template
	Clones int // linked clones, which keep it
}

// Templates lists the templates of this node.
func Templates(c *config.Config) (all []Template, err error) {
	node, err := pve.Local(markers(c.StateDir))
	if err != nil {
		return nil, err
	}
	v := volumes(c, node)
	found, err := v.Templates()
	for _, t := range found {
		clones, cerr := v.Clones(t)
		err = errors.Join(err, cerr)
		all = append(all, Template{t, len(clones)})
	}
	return all, err
}

// inUse says whether a container's record has this CT, and containerd still
// knows the container: then its bundle is there. What can not be read is left
// alone.
func inUse(dir string, vmid int) bool {
	st, err := state.Dir(dir).Read()
	if errors.Is(err, errdefs.ErrNotFound) {
		return false
	}
	if err != nil {
		return true
	}
	_, err = os.Stat(st.Bundle)
	return st.VMID == vmid && !errors.Is(err, os.ErrNotExist)
}

// collectAfterBoot removes what was left before the machine was booted: the
// first container finds no markers.
func collectAfterBoot(ctx context.Context, node *pve.Node) {
	if _, err := os.Stat(node.Keep); !errors.Is(err, os.ErrNotExist) {
		return
	}
	removed, err := node.GC(ctx, inUse)
	if err != nil {
		log.G(ctx).WithError(err).Warn("CTs of before the boot are left for gc")
	}
	if len(removed) > 0 {
		log.G(ctx).WithField("vmids", removed).Info("removed CTs of before the boot")
	}
}
