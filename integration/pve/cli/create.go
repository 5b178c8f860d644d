package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

// createOptions are those that are no properties.
var createOptions = map[string]kind{
	"storage": text, "force": boolean, "ignore-unpack-errors": boolean, "password": text, "pool": text, "start": boolean,
	"unique": boolean, "bwlimit": number, "ssh-public-keys": text, "restore": boolean, "ha-managed": boolean,
}

var creations = []*command{
	{name: "create", args: []string{"vmid", "ostemplate"}, opts: createOptions, props: true, check: checkCreate, work: create},
	{name: "restore", args: []string{"vmid", "ostemplate"}, opts: createOptions, props: true, check: checkCreate, work: create},
	{name: "clone", args: []string{"vmid", "newid"}, opts: map[string]kind{
		"full": boolean, "hostname": text, "pool": text, "snapname": text, "storage": text, "target": text, "description": text, "bwlimit": number,
	}, check: checkClone, work: clone},
	{name: "template", args: vmidOnly, check: checkTemplate, work: template, exits0: true},
	{name: "destroy", args: vmidOnly, opts: map[string]kind{"force": boolean, "purge": boolean, "destroy-unreferenced-disks": boolean}, check: checkDestroy, work: destroy},
}

func (p *call) restores() bool { return p.name == "restore" || p.on("restore") }

// template is where the files come from: "-" or a path.
func (p *call) archive() (string, error) {
	name := p.argv["ostemplate"]
	if name == "-" || strings.HasPrefix(name, "/") {
		return name, nil
	}
	if !strings.Contains(name, ":") {
		return "", host.Dief("unable to parse volume ID '%s'", name)
	}
	v, err := storage.Parse(name)
	if err != nil {
		return "", err
	}
	return v.Path()
}

func checkCreate(p *call) error {
	if err := checkFree(p); err != nil {
		return err
	}
	name := p.argv["ostemplate"]
	if name == "-" {
		if !p.restores() {
			return host.Dief("pipe can only be used with restore tasks")
		}
		if p.opts["rootfs"] == "" {
			return host.Dief("restore from pipe requires rootfs parameter")
		}
	} else if _, err := p.archive(); err != nil {
		return err
	}
	if err := p.checkStorages(); err != nil {
		return err
	}
	if err := host.CheckQuorum(); err != nil {
		return err
	}
	return nil
}

// checkFree refuses an id that is taken, but for a restore that may overwrite
// a stopped container of this node.
func checkFree(p *call) error {
	taken := host.Taken(p.vmid)
	if taken == nil || !p.restores() || !p.on("force") || !host.Exists(p.vmid) {
		return taken
	}
	if lxc.Running(p.vmid) {
		return host.Dief("unable to restore CT %d - can't overwrite running container", p.vmid)
	}
	return nil
}

func (p *call) checkStorages() error {
	check := func(name string) error {
		s, err := storage.Find(name)
		if err != nil {
			return err
		}
		if !s.Has("rootdir") {
			return p.parameter(255, "storage", fmt.Sprintf("storage '%s' does not support container directories", name))
		}
		return nil
	}
	if name := p.opts["storage"]; name != "" {
		if err := check(name); err != nil {
			return err
		}
	}
	for key, value := range p.opts {
		if name, ok := ctconf.Property(key, host.Version()); !ok || name != "rootfs" && name != "mp" {
			continue
		}
		pairs, err := ctconf.ParsePairs(value, "volume")
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(pairs["volume"], ":"); ok && !strings.HasPrefix(name, "/") {
			if err := check(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// creation is a container being made; undo removes what was made.
type creation struct {
	*call
	conf    *ctconf.Conf
	created []*storage.Volume
	root    string
}

func create(p *call) error {
	verb := "create"
	if p.restores() {
		verb = "restore"
	}
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return host.Dief("unable to %s CT %d - %w", verb, p.vmid, err)
	}
	conf := p.conf()
	err := host.Locked(p.vmid, host.CreateLockTimeout, func() error {
		placeholder := ctconf.New()
		placeholder.Props["lock"] = "create"
		if p.restores() && p.on("force") && host.Exists(p.vmid) {
			return p.overwrite(placeholder)
		}
		return host.Create(p.vmid, placeholder)
	})
	if err != nil {
		return fail(err)
	}
	host.Midway()
	c := &creation{call: p, conf: conf, root: filepath.Join(host.Dir(p.vmid), "rootfs")}
	if err := c.make(); err != nil {
		if _, announced := err.(quietError); !announced {
			fmt.Println(err)
		}
		c.undo()
		return fail(err)
	}
	if p.on("start") {
		return start(p)
	}
	return nil
}

// overwrite frees what a container had that is restored.
func (p *call) overwrite(c *ctconf.Conf) error {
	old, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	if err := freeAll(p.vmid, old); err != nil {
		return err
	}
	return host.Write(p.vmid, c)
}

// conf is what the options say.
func (p *call) conf() *ctconf.Conf {
	c := ctconf.New()
	for key, value := range p.opts {
		if _, own := createOptions[key]; own {
			continue
		}
		switch key {
		case "description":
			c.Description = strings.TrimRight(value, "\n") + "\n"
		case "env":
			c.Env = strings.Split(value, "\x00")
		default:
			c.Props[key] = value
		}
	}
	return c
}

// defaults are for a new container what Proxmox writes into its configuration.
func (c *creation) defaults() {
	unprivileged := "0"
	if host.Version() >= ctconf.PVE90 {
		unprivileged = "1"
	}
	for key, value := range map[string]string{"memory": "512", "swap": "512", "unprivileged": unprivileged, "hostname": fmt.Sprintf("CT%d", c.vmid)} {
		if _, ok := c.conf.Props[key]; !ok {
			c.conf.Props[key] = value
		}
	}
	if c.conf.Props["unprivileged"] == "0" {
		delete(c.conf.Props, "unprivileged")
	}
	for key, value := range c.conf.Props {
		if name, _ := ctconf.Property(key, host.Version()); name == "net" && !strings.Contains(value, "hwaddr=") {
			c.conf.Props[key] = withMAC(value)
		}
	}
}

// make makes the disks, unpacks the archive and writes the configuration.
func (c *creation) make() error {
	archive, err := c.archive()
	if err != nil {
		return err
	}
	backup, err := c.backup(archive)
	if err != nil {
		return err
	}
	c.defaults()
	if err := c.disks(backup); err != nil {
		return err
	}
	host.Midway()
	if archive != "-" {
		if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
			return c.noArchive(archive)
		}
	}
	if err := os.MkdirAll(c.root, 0o755); err != nil {
		return err
	}
	if err := lxc.Mount(c.conf, c.root); err != nil {
		fmt.Println("mounting container failed")
		return quietError{err}
	}
	err = c.unpack(archive)
	if err == nil {
		err = c.detect()
	}
	if err = errors.Join(err, lxc.Unmount(c.root)); err != nil {
		return err
	}
	return c.write()
}

// quietError was announced already.
type quietError struct{ error }

func (q quietError) Unwrap() error { return q.error }

func (c *creation) noArchive(archive string) error {
	if strings.HasPrefix(c.argv["ostemplate"], "/") {
		return host.Dief("can't find file '%s'", archive)
	}
	return host.Dief("volume '%s' does not exist", c.argv["ostemplate"])
}

// disks allocates the volumes that are asked for by STORAGE:SIZE.
func (c *creation) disks(backup *ctconf.Conf) error {
	if c.conf.Props["rootfs"] == "" {
		size := "4"
		if backup != nil {
			if p, err := ctconf.ParsePairs(backup.Get("rootfs", ""), "volume"); err == nil && p["size"] != "" {
				n, err := parseSize(p["size"])
				if err != nil {
					return err
				}
				size = strconv.FormatFloat(float64(n)/(1<<30), 'f', -1, 64)
			}
		}
		c.conf.Props["rootfs"] = def(c.opts["storage"], "local") + ":" + size
	}
	points, err := lxc.MountPoints(&c.conf.Section)
	if err != nil {
		return err
	}
	for _, m := range points {
		if m.Bind() {
			continue
		}
		store, rest, _ := strings.Cut(m.Volume, ":")
		gib, err := strconv.ParseFloat(rest, 64)
		if err != nil {
			continue // an existing volume
		}
		if err := c.allocate(m, store, gib); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) allocate(m lxc.MountPoint, store string, gib float64) error {
	s, err := storage.Find(store)
	if err != nil {
		return err
	}
	if host.StorageFull() {
		return s.Full(c.vmid)
	}
	mib := int64(gib * 1024)
	v, err := s.Allocate(c.vmid, mib<<20, c.conf.On("unprivileged"))
	if err != nil {
		return err
	}
	c.created = append(c.created, v)
	value := v.ID()
	for _, k := range slices.Sorted(maps.Keys(m.Opts)) {
		if k != "volume" && k != "size" {
			value += "," + k + "=" + m.Opts[k]
		}
	}
	c.conf.Props[m.Key] = value + ",size=" + formatSize(mib)
	return nil
}

func formatSize(mib int64) string {
	if mib%1024 == 0 {
		return fmt.Sprintf("%dG", mib/1024)
	}
	return fmt.Sprintf("%dM", mib)
}

// write replaces the placeholder.
func (c *creation) write() error {
	return host.Locked(c.vmid, host.LockTimeout, func() error {
		if err := host.Write(c.vmid, c.conf); err != nil {
			return err
		}
		return lxc.WriteConfig(c.vmid, c.conf)
	})
}

// undo removes the disks and the configuration.
func (c *creation) undo() {
	for _, v := range c.created {
		if err := v.Free(c.vmid); err != nil {
			fmt.Println(err)
		}
	}
	if err := os.Remove(host.ConfPath(c.vmid)); err != nil {
		fmt.Println(err)
	}
}
