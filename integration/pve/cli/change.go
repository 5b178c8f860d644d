package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

var changes = []*command{
	{name: "set", args: vmidOnly, opts: map[string]kind{"delete": text, "revert": text, "digest": text}, props: true, check: set},
	{name: "unlock", args: vmidOnly, check: unlock},
	{name: "mount", args: vmidOnly, check: loadable, work: mount},
	{name: "unmount", args: vmidOnly, check: loadable, work: unmount},
	{name: "snapshot", args: []string{"vmid", "snapname"}, opts: map[string]kind{"description": text}, check: checkSnapshot, work: snapshot},
	{name: "delsnapshot", args: []string{"vmid", "snapname"}, opts: map[string]kind{"force": boolean}, check: loadable, work: dropSnapshot},
	{name: "rollback", args: []string{"vmid", "snapname"}, opts: map[string]kind{"start": boolean}, check: loadable, work: rollback},
}

func loadable(p *call) error {
	_, err := host.Load(p.vmid)
	return err
}

// required may not be deleted.
var required = []string{"memory", "rootfs", "ostype"}

func set(p *call) error {
	if len(p.opts) == 0 || len(p.opts) == 1 && p.opts["digest"] != "" {
		return host.Dief("no options specified")
	}
	deletions := ctconf.SplitList(p.opts["delete"])
	for _, key := range deletions {
		if _, ok := ctconf.Property(key, host.Version()); !ok {
			return p.parameter(2, "delete", fmt.Sprintf("unknown option '%s'", key))
		}
	}
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if err := host.CheckLock(c); err != nil {
			return err
		}
		if d := p.opts["digest"]; d != "" && d != c.Digest {
			return host.Dief("detected modified configuration - file changed by other user? Try again.")
		}
		return p.set(c, deletions)
	})
}

func (p *call) set(c *ctconf.Conf, deletions []string) error {
	for _, key := range deletions {
		if slices.Contains(required, key) {
			return host.Dief("unable to delete required option '%s'", key)
		}
		if _, ok := c.Props[key]; !ok && (key != "description" || c.Description == "") {
			fmt.Fprintf(os.Stderr, "cannot delete '%s' - not set in current configuration!\n", key)
			continue
		}
		all := append(ctconf.SplitList(c.Pending.Get("delete", "")), key)
		c.Pending.Props["delete"] = strings.Join(all, ",")
	}
	for _, key := range ctconf.SplitList(p.opts["revert"]) {
		delete(c.Pending.Props, key)
	}
	for key, value := range p.opts {
		switch key {
		case "delete", "revert", "digest":
		case "unprivileged":
			return host.Dief("unable to modify read-only option: '%s'", key)
		case "description":
			c.Pending.Description = strings.TrimRight(value, "\n") + "\n"
		case "env":
			c.Env = strings.Split(value, "\x00")
		default:
			c.Pending.Props[key] = value
		}
	}
	running := lxc.Running(p.vmid)
	var err error
	if running {
		err = lxc.Hotplug(p.vmid, c)
	} else {
		lxc.Merge(c)
	}
	if err := errors.Join(host.Write(p.vmid, c), err); err != nil {
		return err
	}
	return p.missingDevices(c)
}

// missingDevices is found out after the configuration was written.
func (p *call) missingDevices(c *ctconf.Conf) error {
	for key := range p.opts {
		if name, _ := ctconf.Property(key, host.Version()); name == "dev" {
			_, err := lxc.Devices(c)
			return err
		}
	}
	return nil
}

func unlock(p *call) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if c.Get("lock", "") == "" {
			return host.Dief("no lock found trying to remove any lock")
		}
		delete(c.Props, "lock")
		return host.Write(p.vmid, c)
	})
}

func (p *call) root() string { return filepath.Join(host.Dir(p.vmid), "rootfs") }

func mount(p *call) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if err := host.CheckLock(c); err != nil {
			return err
		}
		if err := os.MkdirAll(p.root(), 0o755); err != nil {
			return err
		}
		if err := lxc.Mount(c, p.root()); err != nil {
			return err
		}
		c.Props["lock"] = "mounted"
		if err := host.Write(p.vmid, c); err != nil {
			return err
		}
		fmt.Printf("mounted CT %d in '%s'\n", p.vmid, p.root())
		return nil
	})
}

func unmount(p *call) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if c.Get("lock", "") != "mounted" {
			return host.Dief("no lock found trying to remove 'mounted'  lock")
		}
		if err := unix.Unmount(p.root(), unix.MNT_DETACH); err != nil {
			return host.Dief("unmount '%s': %w", p.root(), err)
		}
		delete(c.Props, "lock")
		return host.Write(p.vmid, c)
	})
}

var snapName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]+$`)

func checkSnapshot(p *call) error {
	if !snapName.MatchString(p.argv["snapname"]) {
		return p.parameter(2, "snapname", "invalid format - invalid configuration ID '"+p.argv["snapname"]+"'\n")
	}
	return loadable(p)
}

func snapshot(p *call) error {
	name := p.argv["snapname"]
	return locked(p, func(c *ctconf.Conf) error {
		if c.Snapshots[name] != nil {
			return host.Dief("snapshot name '%s' already used", name)
		}
		volumes, err := snapshotVolumes(c)
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if err := v.Snapshot(name); err != nil {
				return err
			}
		}
		s := c.Section.Clone()
		s.Props["snaptime"] = fmt.Sprint(time.Now().Unix())
		s.Description = p.opts["description"]
		c.Snapshots[name] = &s
		c.Props["parent"] = name
		return host.Write(p.vmid, c)
	})
}

// snapshotVolumes are a container's volumes if all can have snapshots.
func snapshotVolumes(c *ctconf.Conf) ([]*storage.Volume, error) {
	points, err := lxc.MountPoints(&c.Section)
	if err != nil {
		return nil, err
	}
	volumes, err := storage.Of(&c.Section)
	if err != nil {
		return nil, err
	}
	if len(volumes) != len(points) || slices.ContainsFunc(volumes, func(v *storage.Volume) bool { return !v.Storage.Snapshots() }) {
		return nil, host.Dief("snapshot feature is not available")
	}
	return volumes, nil
}

func withSnapshot(p *call, f func(c *ctconf.Conf, s *ctconf.Section, volumes []*storage.Volume) error) error {
	return locked(p, func(c *ctconf.Conf) error {
		s := c.Snapshots[p.argv["snapname"]]
		if s == nil {
			return host.Dief("snapshot '%s' does not exist", p.argv["snapname"])
		}
		volumes, err := snapshotVolumes(c)
		if err != nil {
			return err
		}
		return f(c, s, volumes)
	})
}

func dropSnapshot(p *call) error {
	name := p.argv["snapname"]
	return withSnapshot(p, func(c *ctconf.Conf, s *ctconf.Section, volumes []*storage.Volume) error {
		for _, v := range volumes {
			if err := v.DropSnapshot(name); err != nil {
				return err
			}
		}
		parent := s.Get("parent", "")
		delete(c.Snapshots, name)
		for _, other := range append(slices.Collect(maps.Values(c.Snapshots)), &c.Section) {
			if other.Props["parent"] == name {
				other.Props["parent"] = parent
				if parent == "" {
					delete(other.Props, "parent")
				}
			}
		}
		return host.Write(p.vmid, c)
	})
}

func rollback(p *call) error {
	name := p.argv["snapname"]
	err := withSnapshot(p, func(c *ctconf.Conf, s *ctconf.Section, volumes []*storage.Volume) error {
		if lxc.Running(p.vmid) {
			return host.Dief("unable to rollback vm %d: vm is running", p.vmid)
		}
		for _, v := range volumes {
			if err := v.Rollback(name); err != nil {
				return err
			}
		}
		c.Section = s.Clone()
		delete(c.Props, "snaptime")
		c.Props["parent"] = name
		return host.Write(p.vmid, c)
	})
	if err != nil || !p.on("start") {
		return err
	}
	return start(p)
}
