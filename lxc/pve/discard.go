package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
)

// discard removes the CT that was being made under a VMID, or is not needed any
// more, if it provably is what is meant: it has the token for a host name,
// complete recognises it, or it is what pct makes first, with nothing but a
// lock. The guard of its record is held: so nobody works on it. What is left
// alone is no error.
func (v *Volumes) discard(ctx context.Context, g *guard, vmid int, token string, complete func(*Conf) bool) error {
	conf, err := v.Node.conf(vmid)
	if errors.Is(err, errdefs.ErrNotFound) {
		v.sweep(ctx, vmid)
		return nil
	}
	if err != nil {
		return err
	}
	if conf.Get("hostname") != token && !complete(conf) && !isPlaceholder(conf) {
		log.G(ctx).WithField("vmid", vmid).Info("the CT is not ours any more: left alone")
		return nil
	}
	client := v.Client.holding(g)
	switch lock := conf.Get("lock"); lock {
	case "":
	case "create", "disk": // of a pct that has ended
		if err := client.Unlock(ctx, vmid); err != nil {
			return err
		}
	default:
		return fmt.Errorf("CT is locked (%s): CT %d: %w", lock, vmid, errdefs.ErrUnavailable)
	}
	if err := client.Destroy(ctx, vmid); err != nil {
		return err
	}
	v.sweep(ctx, vmid)
	return nil
}

// isPlaceholder says whether a configuration is what pct reserves a VMID with.
func isPlaceholder(conf *Conf) bool {
	return len(conf.Props) == 1 && conf.Get("lock") == "create" && len(conf.Raw) == 0 && conf.Description == ""
}

// dropHeld removes a container's volume that was not completed, once nobody
// makes it any more.
func (v *Volumes) dropHeld(ctx context.Context, h *Held) error {
	g, err := v.guard(ctx, v.heldPath(h.VMID), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer g.release()
	return v.dropClone(ctx, h, g)
}

// dropClone is dropHeld with the guard.
func (v *Volumes) dropClone(ctx context.Context, h *Held, g *guard) error {
	path, now := v.heldPath(h.VMID), Held{}
	if err := readRecord(path, &now); err != nil || now.Token != h.Token {
		return err // somebody else has done it
	}
	if err := v.discard(ctx, g, h.VMID, h.Token, h.isIn); err != nil {
		return err
	}
	if err := removeRecord(path); err != nil {
		return err
	}
	return g.drop()
}

// leftTimeout bounds the wait for what pct has left running.
const leftTimeout = 30 * time.Second

// afterFailure calls drop once no process of pct works on what g guards: pct
// may have been killed, and its worker not. What can not be dropped is left to
// the next create or gc, and the first error is the user's.
func (v *Volumes) afterFailure(ctx context.Context, g *guard, drop func(context.Context, *guard) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftTimeout)
	defer cancel()
	path := strings.TrimSuffix(g.f.Name(), guardSuffix)
	g.release() // what is left of pct has it still
	g, err := v.guard(ctx, path, unix.LOCK_EX)
	if err == nil {
		err = drop(ctx, g)
		g.release()
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("what was made of a volume is left for gc")
	}
}

// Sweep says what GC may remove.
type Sweep struct {
	// InUse says whether a container that lives has the CT, by its state
	// directory.
	InUse func(stateDir string, vmid int) bool
	// Templates says whether a template that no volume needs is to go.
	Templates func(t Template) bool
	Max       int // how many CTs at most; 0 is all
}

// GC removes the volumes of containers whose snapshot containerd has removed,
// templates as s says, and what was being made when its maker was killed. It
// returns their VMIDs; what can not be removed is in the error.
func (v *Volumes) GC(ctx context.Context, s Sweep) (removed []int, err error) {
	all, err := v.all()
	errs := []error{err}
	collect := func(vmid int, do func() (bool, error)) {
		if s.Max > 0 && len(removed) >= s.Max {
			return
		}
		done, err := do()
		if err != nil {
			errs = append(errs, fmt.Errorf("CT %d: %w", vmid, err))
		}
		if done && !v.Node.has(vmid) {
			removed = append(removed, vmid)
		}
	}
	for _, h := range all {
		collect(h.VMID, func() (bool, error) { return v.collectVolume(ctx, h.VMID, s) })
	}
	if s.Templates == nil {
		return removed, errors.Join(errs...)
	}
	templates, err := v.Templates()
	for _, t := range templates {
		collect(t.VMID, func() (bool, error) { return v.collectTemplate(ctx, t.name(), s) })
	}
	return removed, errors.Join(append(errs, err)...)
}

func (v *Volumes) collectVolume(ctx context.Context, vmid int, s Sweep) (bool, error) {
	path := v.heldPath(vmid)
	g, err := v.tryGuard(path)
	if g == nil {
		return false, err // somebody makes it
	}
	defer g.release()
	h := &Held{}
	if err := readRecord(path, h); err != nil {
		return false, err
	}
	if h.VMID == 0 {
		return false, g.drop()
	}
	if h.Node != v.Node.Name {
		return false, nil
	}
	if !h.Made {
		return true, v.dropClone(ctx, h, g)
	}
	conf, err := v.Node.conf(vmid)
	if err == nil && !h.isIn(conf) {
		err = errdefs.ErrNotFound
	}
	if errors.Is(err, errdefs.ErrNotFound) { // removed by somebody else
		return false, errors.Join(v.forget(ctx, h), g.drop())
	}
	if err != nil {
		return false, err
	}
	state, err := h.Snapshot.State()
	if state == image.Replaced {
		log.G(ctx).WithField("vmid", vmid).Warn("containerd was set up anew since the container of the CT was there: left alone, as it may be needed")
	}
	if err != nil || state != image.Gone || s.InUse(filepath.Dir(conf.include()), vmid) || conf.Get("protection") == "1" {
		return false, err
	}
	if err := v.dropClone(ctx, h, g); err != nil {
		return false, err
	}
	return true, nil
}

func (v *Volumes) collectTemplate(ctx context.Context, name string, s Sweep) (bool, error) {
	path := v.templatePath(name)
	g, err := v.tryGuard(path)
	if g == nil {
		return false, err // somebody makes it, or a clone of it
	}
	defer g.release()
	t, err := readTemplate(path)
	if err != nil || t.VMID == 0 || t.Node != v.Node.Name {
		return false, err
	}
	if t.Made {
		if !s.Templates(t) {
			return false, nil
		}
		if clones, err := v.Clones(t); err != nil || len(clones) > 0 {
			return false, err
		}
	}
	err = v.dropHalfMade(ctx, path, g)
	if errors.Is(err, errInUse) { // as only the storage knows
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, g.drop()
}

// Clones are the CTs that can not be without the template: linked clones in the
// whole cluster, whoever made them.
func (v *Volumes) Clones(t Template) (clones []string, err error) {
	conf, err := v.Node.conf(t.VMID)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	base, _, _ := strings.Cut(conf.Get("rootfs"), ",")
	paths, err := filepath.Glob(filepath.Join(v.Node.Etc, "nodes", "*", "lxc", "*.conf"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, clusterError(err)
		}
		if strings.Contains(string(text), base+"/") {
			clones = append(clones, strings.TrimSuffix(filepath.Base(path), ".conf"))
		}
	}
	// Of some storages a clone's name does not tell, but our record does.
	all, err := v.all()
	for _, h := range all {
		if id := fmt.Sprint(h.VMID); h.Template == t.name() && !t.Full && !slices.Contains(clones, id) {
			clones = append(clones, id)
		}
	}
	return clones, err
}

// UnusedSince is a Sweep's Templates for those that were not cloned after a
// time.
func UnusedSince(limit time.Time) func(Template) bool {
	return func(t Template) bool { return t.Used.Before(limit) }
}

// Release ends the container of a volume, which stays for its next life. A CT
// that is not there, or is somebody else's by now, is no error. ErrUnavailable
// if that can not be done now.
func (n *Node) Release(ctx context.Context, vmid int, include string) error {
	conf, err := n.conf(vmid)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if conf.include() != include {
		return nil
	}
	if err := n.stop(ctx, vmid); err != nil {
		return err
	}
	return removeGroups(vmid)
}
