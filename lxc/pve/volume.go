package pve

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
)

// Root says what a container's root file system is to be.
type Root struct {
	Volume   bool   // a volume of Proxmox, in place of containerd's snapshot
	Explicit bool   // by the container's own annotation
	Storage  string // of a new volume
	GiB      int    // its size
}

// makeTimeout bounds the making of a volume, with that of a template before: a
// large image on a slow storage takes minutes.
const makeTimeout = time.Hour

// Reserve gives the container that has the snapshot its volume: the one that it
// had, or a clone of its image's template, which is made if need be. The CT is
// stopped, with the configuration of c, when it returns; save is called then.
func (v *Volumes) Reserve(ctx context.Context, c *Config, id image.ID, img Image, save func(h *Held) error) error {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if err := v.Node.setupNets(ctx, v.Client, c.Nets); err != nil {
		return err
	}
	if err := v.Node.removeLeftover(ctx, c); err != nil {
		return err
	}
	h, err := v.Find(id)
	if errors.Is(err, errdefs.ErrNotFound) {
		h, err = v.clone(ctx, c, id, img)
	} else if err == nil {
		h, err = v.take(ctx, c, h, img)
	}
	if err != nil {
		return fmt.Errorf("volume of the container on node %s: %w", v.Node.Name, err)
	}
	return save(h)
}

// take uses a volume that the container has already.
func (v *Volumes) take(ctx context.Context, c *Config, h *Held, img Image) (*Held, error) {
	if !h.Made {
		if err := v.dropHeld(ctx, h); err != nil {
			return nil, err
		}
		return v.clone(ctx, c, h.Snapshot, img)
	}
	if c.VMID != 0 && c.VMID != h.VMID {
		return nil, fmt.Errorf("VMID %d was asked for, and the container's volume is CT %d: %w", c.VMID, h.VMID, errdefs.ErrFailedPrecondition)
	}
	err := v.configure(ctx, c, h, h.isIn)
	if !errors.Is(err, errdefs.ErrNotFound) {
		return h, err
	}
	log.G(ctx).WithError(err).WithField("vmid", h.VMID).Warn("the container's CT was removed by somebody else: it begins again with its image")
	if err := v.forget(ctx, h); err != nil {
		return nil, err
	}
	return v.clone(ctx, c, h.Snapshot, img)
}

// forget removes the record of a CT that is not there any more, and what pct
// left of it.
func (v *Volumes) forget(ctx context.Context, h *Held) error {
	v.sweep(ctx, h.VMID)
	return removeRecord(v.heldPath(h.VMID))
}

// sweep removes the files that pct leaves of a CT, if nobody in the cluster has
// its VMID again.
func (v *Volumes) sweep(ctx context.Context, vmid int) {
	used, err := v.Node.used()
	if err == nil && !used[vmid] {
		err = v.Node.sweep(vmid)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("vmid", vmid).Warn("files of a CT are left")
	}
}

// isIn says whether a configuration is that of the container's CT.
func (h *Held) isIn(conf *Conf) bool {
	return conf.isOf(h.Node, h.VMID) && ownsRoot(conf, h.VMID)
}

// clone makes a volume for the container.
func (v *Volumes) clone(ctx context.Context, c *Config, id image.ID, img Image) (*Held, error) {
	t, used, err := v.template(ctx, c, img)
	if err != nil {
		return nil, err
	}
	defer used.release()
	h := &Held{
		Node: v.Node.Name, Namespace: c.Namespace, ID: c.ID, Snapshot: id, Template: t.name(), Token: token(), Added: t.Added,
	}
	for tries := 0; ; tries++ {
		if h.VMID = c.VMID; h.VMID == 0 {
			if h.VMID, err = v.Node.pick(c.Range); err != nil {
				return nil, err
			}
		}
		err := v.cloneTo(ctx, c, t, h, used)
		if errors.Is(err, errdefs.ErrAlreadyExists) && c.VMID == 0 && tries < maxTries {
			continue // another node was faster
		}
		if err != nil {
			return nil, err
		}
		return h, nil
	}
}

func (v *Volumes) cloneTo(ctx context.Context, c *Config, t *Template, h *Held, used *guard) (retErr error) {
	path := v.heldPath(h.VMID)
	g, err := v.guard(ctx, path, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer g.release()
	if taken, err := v.Node.used(); err != nil || taken[h.VMID] {
		return errors.Join(err, fmt.Errorf("VMID %d is in use: %w", h.VMID, errdefs.ErrAlreadyExists))
	}
	if err := writeRecord(path, h); err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			v.afterFailure(ctx, g, func(ctx context.Context, g *guard) error { return v.dropClone(ctx, h, g) })
		}
	}()
	err = v.pctClone(ctx, t, h, g, used)
	if errors.Is(err, errdefs.ErrAlreadyExists) {
		// Then what is there is not ours, however it looks.
		return errors.Join(err, removeRecord(path))
	}
	if err != nil {
		return err
	}
	if err := v.configure(ctx, c, h, h.isClone); err != nil {
		return err
	}
	h.Made = true
	return writeRecord(path, h)
}

// pctClone clones the template, without a copy where the storage can.
func (v *Volumes) pctClone(ctx context.Context, t *Template, h *Held, guards ...*guard) (retErr error) {
	turn, err := v.takeTurn(ctx, t)
	if err != nil {
		return err
	}
	defer turn.release()
	client := v.Client.holding(append(guards, turn)...)
	if err := v.unlock(ctx, t, turn, client); err != nil {
		return err
	}
	if _, err := turn.f.WriteAt([]byte("pct clone\n"), 0); err != nil {
		return err
	}
	defer func() {
		if retErr == nil {
			retErr = turn.f.Truncate(0)
		}
	}()
	err = client.Clone(ctx, t.VMID, h.VMID, CloneOptions{Full: t.Full, Hostname: h.Token})
	if !errors.Is(err, errNoLinkedClone) {
		return err
	}
	t.Full = true
	if err := writeRecord(v.templatePath(t.name()), t); err != nil {
		return err
	}
	return client.Clone(ctx, t.VMID, h.VMID, CloneOptions{Full: true, Hostname: h.Token})
}

// takeTurn waits until no other clone of the template is made: Proxmox locks
// what it clones, and refuses a second one.
func (v *Volumes) takeTurn(ctx context.Context, t *Template) (*guard, error) {
	return v.guard(ctx, v.templatePath(t.name())+".clone", unix.LOCK_EX)
}

// unlock removes the lock that a clone of ours has left on the template, whose
// pct was killed: its turn is not marked as done.
func (v *Volumes) unlock(ctx context.Context, t *Template, turn *guard, client *Client) error {
	st, err := turn.f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	conf, err := v.Node.conf(t.VMID)
	if err != nil || conf.Get("lock") != "disk" {
		return err
	}
	return client.Unlock(ctx, t.VMID)
}

// isClone says whether a configuration is that of the clone that is being made.
func (h *Held) isClone(conf *Conf) bool {
	return conf.Get("hostname") == h.Token && ownsRoot(conf, h.VMID)
}

// configure gives a CT that ours recognises the configuration of c. It keeps
// what an operator has set and a container does not, and snapshots. ErrNotFound
// if there is no such CT.
func (v *Volumes) configure(ctx context.Context, c *Config, h *Held, ours func(*Conf) bool) error {
	n := v.Node
	locking, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	l, err := n.lock(locking, h.VMID)
	if err != nil {
		return err
	}
	defer l.release()
	text, err := os.ReadFile(n.confPath(h.VMID))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("CT %d on node %s: %w", h.VMID, n.Name, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("CT %d: %w", h.VMID, clusterError(err))
	}
	old := ParseConf(text)
	if !ours(old) {
		return fmt.Errorf("CT %d on node %s is another one: %w", h.VMID, n.Name, errdefs.ErrNotFound)
	}
	if lock := old.Get("lock"); lock != "" {
		return fmt.Errorf("CT is locked (%s): CT %d: %w", lock, h.VMID, errdefs.ErrUnavailable)
	}
	if err := n.stop(ctx, h.VMID); err != nil {
		return err
	}
	c.volume = old.Get("rootfs")
	for _, net := range c.Nets {
		net.keepMAC(old)
	}
	own, err := c.conf(n, h.VMID)
	if err != nil {
		return err
	}
	first, err := merge(old, ParseConf(own)).Marshal()
	if err != nil {
		return err
	}
	return n.replace(h.VMID, text, append(first, rest(text)...))
}

// managed are the properties that are the container's: what an operator changes
// of them holds until the next Create.
func managed(key string) bool {
	switch key {
	case "arch", "cmode", "cpulimit", "cpuunits", "features", "hostname", "memory", "onboot", "ostype", "swap", "template", "unprivileged":
		return true
	}
	return strings.HasPrefix(key, "net") && len(key) > 3 && key[3] >= '0' && key[3] <= '9'
}

// merge is the configuration own of a CT that has had old.
func merge(old, own *Conf) *Conf {
	for _, p := range old.Props {
		switch {
		case p.Key == "tags":
			all := tags(append(own.Tags(), old.Tags()...)...)
			all = tags(without(strings.Split(all, ";"), TemplateTag)...)
			for i := range own.Props {
				if own.Props[i].Key == "tags" {
					own.Props[i].Value = all
				}
			}
		case !managed(p.Key) && p.Value != "" && own.Get(p.Key) == "":
			own.Props = append(own.Props, p)
		}
	}
	for _, p := range old.Raw {
		if p.Key != "lxc.include" {
			own.Raw = append(own.Raw, p)
		}
	}
	slices.SortFunc(own.Props, func(a, b Prop) int { return strings.Compare(a.Key, b.Key) })
	return own
}

func without(all []string, s string) []string {
	return slices.DeleteFunc(all, func(t string) bool { return t == s })
}

// rest is what follows the first section of a configuration: pending changes
// and snapshots.
func rest(text []byte) []byte {
	if bytes.HasPrefix(text, []byte("[")) {
		return text
	}
	if i := bytes.Index(text, []byte("\n[")); i >= 0 {
		return append([]byte("\n"), text[i+1:]...)
	}
	return nil
}

// pick chooses a VMID for a command that makes the CT itself. Nobody else here
// gets it for a while; on another node somebody may.
func (n *Node) pick(r Range) (int, error) {
	c, err := n.counter()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	used, err := n.used()
	if err != nil {
		return 0, err
	}
	for id := range r.from(c.last() + 1) {
		if !used[id] && !n.hasLeftovers(id) {
			return id, c.set(id)
		}
	}
	return 0, fmt.Errorf("no VMID is free from %d to %d: %w", r.Min, r.Max, errdefs.ErrResourceExhausted)
}

// token is a host name that nobody else gives a CT.
func token() string { return "nexcage-" + strings.ToLower(rand.Text()) }
