package lxc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/lxc/rootfs"
)

// HasRoot says whether the container's root file system is a volume of Proxmox.
// A container stays with what it began with, as what it has written is there.
func (h *PVE) HasRoot(ctx context.Context, r *Request) (bool, error) {
	want := h.Settings.Root
	s, err := image.Parse(r.Rootfs)
	if err != nil {
		if want.Volume {
			return false, fmt.Errorf("a volume for the root file system: %w", err)
		}
		return false, nil
	}
	id, err := s.ID()
	if err != nil {
		return false, err
	}
	h.held, err = h.Volumes.Find(id)
	if err == nil || !errors.Is(err, errdefs.ErrNotFound) {
		return err == nil, err
	}
	if !want.Volume {
		return false, nil
	}
	written, err := s.Written()
	if err != nil || !written {
		return err == nil, err
	}
	if want.Explicit {
		return false, fmt.Errorf("a volume for the root file system would be without what was written to the container's snapshot already: %w", errdefs.ErrFailedPrecondition)
	}
	log.G(ctx).WithField("id", r.ID).Warn("the container's snapshot was written to already: it stays the root file system")
	return false, nil
}

// reserveVolume is Reserve for a container with a volume.
func (h *PVE) reserveVolume(ctx context.Context, c *Config, r *Record, save func() error) error {
	s, err := image.Parse(c.Request.Rootfs)
	if err != nil {
		return err
	}
	id, err := s.ID()
	if err != nil {
		return err
	}
	img := &snapshotImage{Snapshot: s, dir: r.Rootfs}
	return h.Volumes.Reserve(ctx, h.config(c, r), id, img, func(held *pve.Held) error {
		h.held = held
		h.record(c, r, held.VMID)
		return save()
	})
}

// snapshotImage is the image beneath a container's snapshot.
type snapshotImage struct {
	*image.Snapshot
	dir string // where it may be mounted for a while
}

// Stream mounts the image for as long as it is read.
func (i *snapshotImage) Stream(ctx context.Context, w io.Writer, files []image.File) (added []string, err error) {
	err = i.Mounted(i.dir, func() error {
		if added, err = image.Added(i.dir, files); err != nil {
			return err
		}
		return image.Write(ctx, w, i.dir, files)
	})
	return added, err
}

// volumeInstance is a container whose root file system Proxmox mounts, in
// lxc-start's mount namespace.
type volumeInstance struct {
	*pve.Instance
	host   *PVE
	record *Record
	swept  <-chan struct{}
}

// atOnce is how many volumes of containers that are gone a Create removes,
// while pct starts its own: they do not pile up where nobody calls gc.
const atOnce = 2

// sweepTimeout bounds how long a Create waits for that.
const sweepTimeout = 20 * time.Second

func (h *PVE) volumeInstance(ctx context.Context, i *pve.Instance, r *Record) *volumeInstance {
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout)
		defer cancel()
		removed, err := h.Volumes.GC(ctx, pve.Sweep{InUse: h.InUse, Max: atOnce})
		if err != nil {
			log.G(ctx).WithError(err).Warn("volumes of former containers are left for gc")
		}
		if len(removed) > 0 {
			log.G(ctx).WithField("vmids", removed).Info("removed volumes of former containers")
		}
	}()
	return &volumeInstance{i, h, r, swept}
}

// Ready waits for the removal of others as well: it is a part of this Create.
func (i *volumeInstance) Ready(ctx context.Context) error {
	err := i.Instance.Ready(ctx)
	<-i.swept
	return err
}

// Root is what Proxmox has mounted, beneath the base directory that LXC was
// started on. LXC needs that no more: taken away there, Proxmox's own hooks
// find at the end what they know.
func (i *volumeInstance) Root() (*os.File, error) {
	monitor, err := i.record.Monitor.open()
	if err != nil {
		return nil, fmt.Errorf("lxc-start of CT %d: %w", i.record.VMID, err)
	}
	defer monitor.Close()
	place := filepath.Join(i.record.LXCPath, strconv.Itoa(i.record.VMID), "rootfs")
	root, err := rootfs.Beneath(monitor, place, string(i.record.base()))
	if err != nil {
		return nil, err
	}
	if err := i.removeAdded(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// removeAdded removes what the image has not.
func (i *volumeInstance) removeAdded(root *os.File) error {
	held := i.host.held
	if len(held.Added) == 0 {
		return nil
	}
	dirs := slices.Clone(held.Added)
	slices.Reverse(dirs) // they are in those before them
	if err := rootfs.RemoveEmpty(root, dirs); err != nil {
		return err
	}
	held.Added = nil
	return i.host.Volumes.Save(held)
}
