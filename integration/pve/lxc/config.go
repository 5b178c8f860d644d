// Package lxc runs a container's configuration with LXC in the way that
// PVE::LXC does: the generated /var/lib/lxc/VMID/config, start and stop with
// their messages, the hooks, and changes of limits while it runs.
package lxc

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// shareConfig is where LXC's package has its configuration files.
const shareConfig = "/usr/share/lxc/config"

// lines is a configuration on its way.
type lines []string

func (l *lines) add(key, format string, args ...any) {
	*l = append(*l, key+" = "+fmt.Sprintf(format, args...))
}

// Unified says whether the machine has nothing but cgroup v2.
func Unified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// Config is the text of /var/lib/lxc/VMID/config (LXC.pm, update_lxc_config):
// the order of keys is Proxmox's. On a cgroup v1 machine, limits are written
// with v1's keys, as Proxmox 7 did there.
func Config(vmid int, c *ctconf.Conf, version ctconf.Version) (string, error) {
	arch := c.Get("arch", "")
	if arch == "" {
		return "", host.Dief("missing 'arch' - internal error")
	}
	var l lines
	l.add("lxc.cgroup.relative", "0")
	l.add("lxc.cgroup.dir.monitor", "lxc.monitor/%d", vmid)
	l.add("lxc.cgroup.dir.container", "lxc/%d", vmid)
	l.add("lxc.cgroup.dir.container.inner", "ns")
	l.add("lxc.arch", "%s", arch)
	unprivileged := c.On("unprivileged") || slices.ContainsFunc(c.Raw, func(r ctconf.Raw) bool { return r.Key == "lxc.idmap" })
	l.include(c.Get("ostype", "unmanaged"), "common.conf")
	if unprivileged {
		l.include(c.Get("ostype", "unmanaged"), "userns.conf")
	}
	l.apparmor(c)
	if unprivileged {
		l.add("lxc.mount.auto", "sys:mixed")
	}
	if entry := c.Get("entrypoint", "/sbin/init"); entry != "/sbin/init" && version >= ctconf.PVE91 {
		l.add("lxc.mount.entry", "shm dev/shm tmpfs defaults,create=dir 0 0")
	}
	if err := l.devices(c); err != nil {
		return "", err
	}
	l.add("lxc.monitor.unshare", "1")
	if c.On("unprivileged") && !hasRaw(c, "lxc.idmap") {
		l.add("lxc.idmap", "u 0 100000 65536")
		l.add("lxc.idmap", "g 0 100000 65536")
	}
	l.terminals(c)
	l.add("lxc.uts.name", "%s", c.Get("hostname", fmt.Sprintf("CT%d", vmid)))
	for _, limit := range Limits(c) {
		l.add(limit.Key(), "%s", limit.Value)
	}
	l.add("lxc.rootfs.path", "%s", filepath.Join(host.Dir(vmid), "rootfs"))
	if entry := c.Get("entrypoint", "/sbin/init"); entry != "/sbin/init" {
		l.add("lxc.init.cmd", "%s", entry)
	}
	if err := l.networks(vmid, c); err != nil {
		return "", err
	}
	for _, e := range c.Env {
		// LXC 5.0 knows no lxc.environment.runtime.
		l.add("lxc.environment", "%s", e)
	}
	for _, r := range c.Raw {
		l.add(r.Key, "%s", r.Value)
	}
	return strings.Join(l, "\n") + "\n", nil
}

// WriteConfig writes it, with the directory for the root file system.
func WriteConfig(vmid int, c *ctconf.Conf) error {
	text, err := Config(vmid, c, host.Version())
	if err != nil {
		return err
	}
	dir := host.Dir(vmid)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config"), []byte(text), 0o644)
}

func hasRaw(c *ctconf.Conf, key string) bool {
	_, ok := c.RawValue(key)
	return ok
}

func (l *lines) include(ostype, name string) {
	path := filepath.Join(shareConfig, ostype+"."+name)
	if _, err := os.Stat(path); err != nil {
		path = filepath.Join(shareConfig, name)
	}
	l.add("lxc.include", "%s", path)
}

func (l *lines) apparmor(c *ctconf.Conf) {
	if hasRaw(c, "lxc.apparmor.profile") {
		return
	}
	l.add("lxc.apparmor.profile", "generated")
	features, _ := ctconf.ParsePairs(c.Get("features", "nesting=0"), "")
	if features["nesting"] == "1" {
		l.add("lxc.apparmor.allow_nesting", "1")
	} else {
		l.add("lxc.apparmor.raw", "deny mount -> /proc/,")
		l.add("lxc.apparmor.raw", "deny mount -> /sys/,")
	}
}

func (l *lines) terminals(c *ctconf.Conf) {
	if !c.On("console") && c.Get("console", "1") == "0" {
		l.add("lxc.console.path", "none")
		l.add(deviceKey("deny"), "c 5:1 rwm")
	}
	l.add("lxc.tty.max", "%s", c.Get("tty", "2"))
	l.add("lxc.environment", "TERM=linux")
}

func deviceKey(what string) string {
	if Unified() {
		return "lxc.cgroup2.devices." + what
	}
	return "lxc.cgroup.devices." + what
}

// Device is one devN.
type Device struct {
	Path     string
	Mode     uint32
	UID, GID int
	Dev      uint64
	Char     bool
	ReadOnly bool
}

// Devices of a container, in order.
func Devices(c *ctconf.Conf) ([]Device, error) {
	var all []Device
	for _, key := range Keys(c, "dev") {
		p, err := ctconf.ParsePairs(c.Props[key], "path")
		if err != nil {
			return nil, host.Dief("%w", err)
		}
		var st unix.Stat_t
		if err := unix.Stat(p["path"], &st); err != nil {
			return nil, host.Dief("Device %s does not exist", p["path"])
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
			return nil, host.Dief("'%s' is not a device", p["path"])
		}
		mode, err := strconv.ParseUint(def(p["mode"], "0660"), 8, 12)
		if err != nil {
			return nil, host.Dief("%s: invalid mode %q", key, p["mode"])
		}
		d := Device{Path: p["path"], Mode: kind | uint32(mode), Dev: st.Rdev, Char: kind == unix.S_IFCHR, ReadOnly: p["deny-write"] == "1"}
		d.UID, _ = strconv.Atoi(p["uid"])
		d.GID, _ = strconv.Atoi(p["gid"])
		all = append(all, d)
	}
	return all, nil
}

func def(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}

func (l *lines) devices(c *ctconf.Conf) error {
	devices, err := Devices(c)
	if err != nil {
		return err
	}
	for _, d := range devices {
		kind, access := "b", "rwm"
		if d.Char {
			kind = "c"
		}
		if d.ReadOnly {
			access = "rm"
		}
		l.add(deviceKey("allow"), "%s %d:%d %s", kind, unix.Major(d.Dev), unix.Minor(d.Dev), access)
	}
	return nil
}

var family = regexp.MustCompile(`^([a-z]+)(\d+)$`)

// Keys are the numbered properties of a family, by number.
func Keys(c *ctconf.Conf, name string) []string {
	var keys []string
	for k := range c.Props {
		if m := family.FindStringSubmatch(k); m != nil && m[1] == name {
			keys = append(keys, k)
		}
	}
	number := func(k string) int { n, _ := strconv.Atoi(strings.TrimPrefix(k, name)); return n }
	slices.SortFunc(keys, func(a, b string) int { return number(a) - number(b) })
	return keys
}

func (l *lines) networks(vmid int, c *ctconf.Conf) error {
	keys := Keys(c, "net")
	if len(keys) == 0 && !slices.ContainsFunc(c.Raw, func(r ctconf.Raw) bool { return strings.HasPrefix(r.Key, "lxc.net.") }) {
		l.add("lxc.net.0.type", "empty")
	}
	for _, key := range keys {
		p, err := ctconf.ParsePairs(c.Props[key], "")
		if err != nil {
			return host.Dief("%w", err)
		}
		i := strings.TrimPrefix(key, "net")
		net := "lxc.net." + i + "."
		l.add(net+"type", "%s", def(p["type"], "veth"))
		l.add(net+"veth.pair", "veth%di%s", vmid, i)
		if p["hwaddr"] != "" {
			l.add(net+"hwaddr", "%s", p["hwaddr"])
		}
		l.add(net+"name", "%s", p["name"])
		if p["mtu"] != "" {
			l.add(net+"mtu", "%s", p["mtu"])
		}
		l.add(net+"script.up", "/usr/share/lxc/lxcnetaddbr")
		if p["host-managed"] == "1" {
			l.addresses(net, p)
		}
	}
	return nil
}

func (l *lines) addresses(net string, p ctconf.Pairs) {
	for _, f := range []struct{ ip, gw, key string }{{"ip", "gw", "ipv4"}, {"ip6", "gw6", "ipv6"}} {
		if strings.Contains(p[f.ip], "/") {
			l.add(net+f.key+".address", "%s", p[f.ip])
		}
		if p[f.gw] != "" {
			l.add(net+f.key+".gateway", "%s", p[f.gw])
		}
	}
	l.add(net+"flags", "up")
}
