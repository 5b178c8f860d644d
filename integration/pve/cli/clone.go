package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

func checkClone(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	if err := host.CheckLock(c); err != nil {
		return err
	}
	newid, _ := strconv.Atoi(p.argv["newid"]) // verified
	if err := host.Taken(newid); err != nil {
		return err
	}
	if snap := p.opts["snapname"]; snap != "" && c.Snapshots[snap] == nil {
		return host.Dief("snapshot '%s' does not exist", snap)
	}
	if err := cloneable(p, c); err != nil {
		return err
	}
	return host.CheckQuorum()
}

func (p *call) full(c *ctconf.Conf) bool { return p.on("full") || !c.On("template") }

func cloneable(p *call, c *ctconf.Conf) error {
	if p.full(c) && lxc.Running(p.vmid) && p.opts["snapname"] == "" {
		return host.Dief("Full clone of a running container is only possible from a snapshot")
	}
	if !p.full(c) && p.opts["storage"] != "" {
		return host.Dief("parameter 'storage' not allowed for linked clones")
	}
	points, err := lxc.MountPoints(&c.Section)
	if err != nil {
		return err
	}
	for _, m := range points {
		if m.Bind() {
			return host.Dief("unable to clone mountpoint '%s' (type bind)", m.Key)
		}
		v, err := storage.Parse(m.Volume)
		if err != nil {
			return err
		}
		if !p.full(c) && !v.Storage.Clones() {
			return host.Dief("Linked clone feature for '%s' is not available", v.ID())
		}
	}
	return nil
}

func clone(p *call) error {
	newid, err := strconv.Atoi(p.argv["newid"])
	if err != nil {
		return err
	}
	c, err := lockSource(p.vmid)
	if err != nil {
		return err
	}
	err = cloneAs(p, c, newid)
	return errors.Join(err, unlockSource(p.vmid))
}

// lockSource keeps a container from being changed while it is cloned.
func lockSource(vmid int) (*ctconf.Conf, error) {
	var c *ctconf.Conf
	err := host.Locked(vmid, host.LockTimeout, func() (err error) {
		if c, err = host.Load(vmid); err != nil {
			return err
		}
		if err := host.CheckLock(c); err != nil {
			return err
		}
		locked := *c
		locked.Section = c.Section.Clone()
		locked.Props["lock"] = "disk"
		return host.Write(vmid, &locked)
	})
	return c, err
}

func unlockSource(vmid int) error {
	return host.Locked(vmid, host.LockTimeout, func() error {
		c, err := host.Load(vmid)
		if err != nil {
			return err
		}
		delete(c.Props, "lock")
		return host.Write(vmid, c)
	})
}

func cloneAs(p *call, c *ctconf.Conf, newid int) error {
	return host.Locked(newid, host.LockTimeout, func() error {
		placeholder := ctconf.New()
		placeholder.Props["lock"] = "create"
		if err := host.Create(newid, placeholder); err != nil {
			return host.Dief("unable to create CT %d: %w", newid, err)
		}
		host.Midway()
		n, made, err := cloned(p, c, newid)
		if err == nil {
			err = host.Write(newid, n)
		}
		if err == nil {
			return lxc.WriteConfig(newid, n)
		}
		errs := []error{err}
		for _, v := range made {
			errs = append(errs, v.Free(newid))
		}
		return host.Dief("clone failed: %w", errors.Join(append(errs, os.Remove(host.ConfPath(newid)))...))
	})
}

// cloned makes the clone's volumes and configuration.
func cloned(p *call, c *ctconf.Conf, newid int) (*ctconf.Conf, []*storage.Volume, error) {
	source := &c.Section
	if snap := p.opts["snapname"]; snap != "" {
		source = c.Snapshots[snap]
	}
	n := ctconf.New()
	n.Section = source.Clone()
	for _, key := range []string{"template", "lock", "parent", "snaptime", "snapstate", "protection"} {
		delete(n.Props, key)
	}
	if h := p.opts["hostname"]; h != "" {
		n.Props["hostname"] = h
	}
	if d := p.opts["description"]; d != "" {
		n.Description = d + "\n"
	}
	points, err := lxc.MountPoints(source)
	if err != nil {
		return nil, nil, err
	}
	var made []*storage.Volume
	for _, m := range points {
		v, err := cloneVolume(p, c, m, newid)
		if err != nil {
			return nil, made, err
		}
		made = append(made, v)
		n.Props[m.Key] = strings.Replace(n.Props[m.Key], m.Volume, v.ID(), 1)
	}
	for key, value := range n.Props {
		if name, _ := ctconf.Property(key, host.Version()); name == "net" {
			n.Props[key] = withMAC(withoutMAC(value))
		}
	}
	return n, made, nil
}

func withoutMAC(value string) string {
	parts := strings.Split(value, ",")
	kept := parts[:0]
	for _, part := range parts {
		if !strings.HasPrefix(part, "hwaddr=") {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ",")
}

func cloneVolume(p *call, c *ctconf.Conf, m lxc.MountPoint, newid int) (*storage.Volume, error) {
	v, err := storage.Parse(m.Volume)
	if err != nil {
		return nil, err
	}
	if host.StorageFull() {
		return nil, v.Storage.Full(newid)
	}
	if !p.full(c) {
		return v.LinkedClone(newid)
	}
	to := v.Storage
	if name := p.opts["storage"]; name != "" {
		if to, err = storage.Find(name); err != nil {
			return nil, err
		}
	}
	size := int64(0)
	if !v.IsDir() {
		if size, err = parseSize(m.Opts["size"]); err != nil {
			return nil, err
		}
	}
	fmt.Printf("create full clone of mountpoint %s (%s)\n", m.Key, m.Volume)
	return v.FullClone(newid, to, size)
}

func checkTemplate(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	switch {
	case c.On("template"):
		return host.Dief("you can't convert a template to a template")
	case lxc.Running(p.vmid):
		return host.Dief("you can't convert a CT to template if the CT is running")
	case len(c.Snapshots) > 0:
		return host.Dief("unable to create template, because CT contains snapshots")
	}
	return host.CheckLock(c)
}

func template(p *call) error {
	return locked(p, func(c *ctconf.Conf) error {
		points, err := lxc.MountPoints(&c.Section)
		if err != nil {
			return err
		}
		for _, m := range points {
			if m.Bind() {
				return host.Dief("Template feature is not available for '%s'", m.Volume)
			}
			v, err := storage.Parse(m.Volume)
			if err != nil {
				return err
			}
			base, err := v.MakeBase()
			if err != nil {
				return err
			}
			c.Props[m.Key] = strings.Replace(c.Props[m.Key], m.Volume, base.ID(), 1)
			host.Midway()
		}
		c.Props["template"] = "1"
		return host.Write(p.vmid, c)
	})
}

func checkDestroy(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	if c.On("protection") {
		return host.Dief("can't remove CT %d - protection mode enabled", p.vmid)
	}
	if lxc.Running(p.vmid) && !p.on("force") {
		return host.Dief("unable to destroy CT %d - container is running", p.vmid)
	}
	return nil
}

func destroy(p *call) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if lxc.Running(p.vmid) {
			if !p.on("force") {
				return host.Dief("unable to destroy CT %d - container is running", p.vmid)
			}
			fmt.Printf("forced to stop CT %d before destroying!\n", p.vmid)
			if err := lxc.Stop(p.vmid); err != nil {
				return err
			}
		}
		if err := host.CheckLock(c); err != nil && !p.on("force") {
			return err
		}
		if err := freeAll(p.vmid, c); err != nil {
			return err
		}
		host.Midway()
		if p.on("destroy-unreferenced-disks") {
			if err := storage.FreeAll(p.vmid); err != nil {
				return err
			}
		}
		if p.on("purge") {
			fmt.Printf("purging CT %d from related configurations..\n", p.vmid)
		}
		return forget(p.vmid)
	})
}

func freeAll(vmid int, c *ctconf.Conf) error {
	for _, s := range append(sections(c), &c.Section) {
		volumes, err := storage.Of(s)
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if err := v.Free(vmid); err != nil {
				return err
			}
		}
	}
	return nil
}

func sections(c *ctconf.Conf) []*ctconf.Section {
	var all []*ctconf.Section
	for _, s := range c.Snapshots {
		all = append(all, s)
	}
	return all
}

// forget removes a container's files; the directory stays with what Proxmox
// leaves in it.
func forget(vmid int) error {
	dir := host.Dir(vmid)
	for _, path := range []string{
		filepath.Join(dir, "config"), filepath.Join(dir, "rootfs"), filepath.Join(dir, "reboot"), filepath.Join(dir, "apparmor"), dir,
		filepath.Join(host.EtcPVE, "firewall", fmt.Sprintf("%d.fw", vmid)),
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && path != dir {
			return host.Dief("%w", err)
		}
	}
	return os.Remove(host.ConfPath(vmid))
}
