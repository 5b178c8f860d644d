package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

// others are commands of which the tests need little more than the refusals.
var others = []*command{
	{name: "push", args: []string{"vmid", "file", "destination"}, opts: map[string]kind{"user": text, "group": text, "perms": text}, check: push},
	{name: "pull", args: []string{"vmid", "path", "destination"}, opts: map[string]kind{"user": text, "group": text, "perms": text}, check: pull},
	{name: "resize", args: []string{"vmid", "disk", "size"}, opts: map[string]kind{"digest": text}, check: resize},
	{name: "move-volume", args: []string{"vmid", "volume", "storage"}, opts: map[string]kind{"delete": boolean}, check: moveVolume},
	{name: "migrate", args: []string{"vmid", "target"}, opts: map[string]kind{"online": boolean, "restart": boolean, "timeout": integer}, check: migrate},
	{name: "df", args: vmidOnly, check: df},
	{name: "fsck", args: vmidOnly, opts: map[string]kind{"device": text, "force": boolean}, check: fsck},
	{name: "fstrim", args: vmidOnly, opts: map[string]kind{"ignore-mountpoints": boolean}, check: fstrim},
	{name: "rescan", opts: map[string]kind{"vmid": integer, "dryrun": boolean}, check: rescan},
}

// intoContainer copies between the node and a running container.
func intoContainer(vmid int, in, out *os.File, script string, args ...string) error {
	argv := append([]string{"-n", strconv.Itoa(vmid), "--", "sh", "-c", script, "sh"}, args...)
	cmd := exec.Command("lxc-attach", argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	return cmd.Run()
}

func push(p *call) error {
	if _, err := host.Load(p.vmid); err != nil {
		return err
	}
	if !lxc.Running(p.vmid) {
		return host.Dief("can only push files to a running CT")
	}
	f, err := os.Open(p.argv["file"])
	if err != nil {
		fmt.Fprintf(os.Stderr, "failed to open %s for reading\n", p.argv["file"])
		return nil // and exit code 0, as the genuine one
	}
	defer f.Close()
	if err := intoContainer(p.vmid, f, nil, `cat >"$1"`, p.argv["destination"]); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return nil
}

func pull(p *call) error {
	if _, err := host.Load(p.vmid); err != nil {
		return err
	}
	if !lxc.Running(p.vmid) {
		return host.Dief("can only pull files from a running VM at /usr/share/perl5/PVE/CLI/pct.pm line 664.")
	}
	f, err := os.Create(p.argv["destination"])
	if err != nil {
		return host.Dief("%w", err)
	}
	if err := intoContainer(p.vmid, nil, f, `cat "$1"`, p.argv["path"]); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return f.Close()
}

func pointOf(p *call, key string) (*ctconf.Conf, lxc.MountPoint, error) {
	c, err := host.Load(p.vmid)
	if err != nil {
		return nil, lxc.MountPoint{}, err
	}
	points, err := lxc.MountPoints(&c.Section)
	if err != nil {
		return nil, lxc.MountPoint{}, err
	}
	for _, m := range points {
		if m.Key == key {
			return c, m, nil
		}
	}
	return nil, lxc.MountPoint{}, host.Dief("there is no disk '%s'", key)
}

// resize changes the size in the configuration, and of a raw image.
func resize(p *call) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, m, err := pointOf(p, p.argv["disk"])
		if err != nil {
			return err
		}
		v, err := storage.Parse(m.Volume)
		if err != nil {
			return err
		}
		old, err := parseSize(m.Opts["size"])
		if err != nil {
			return err
		}
		size, err := parseSize(strings.TrimPrefix(p.argv["size"], "+"))
		if err != nil {
			return p.parameter(2, "size", "value does not match the regex pattern")
		}
		if strings.HasPrefix(p.argv["size"], "+") {
			size += old
		}
		switch {
		case size < old:
			return host.Dief("unable to shrink disk size")
		case size == old:
			return host.Dief("disk is already at specified size")
		case !v.IsDir() && lxc.Running(p.vmid):
			return host.Dief("the stand-in does not resize an image in use")
		}
		if err := grow(v, size); err != nil {
			return err
		}
		c.Props[m.Key] = strings.Replace(c.Props[m.Key], "size="+m.Opts["size"], "size="+formatSize(size>>20), 1)
		return host.Write(p.vmid, c)
	})
}

func grow(v *storage.Volume, size int64) error {
	if v.IsDir() {
		return nil // a quota, which the stand-in has none of
	}
	path, err := v.Path()
	if err != nil {
		return err
	}
	if err := os.Truncate(path, size); err != nil {
		return err
	}
	_ = exec.Command("e2fsck", "-f", "-y", path).Run() // resize2fs asks for it, and judges
	return exec.Command("resize2fs", path).Run()
}

func moveVolume(p *call) error {
	_, m, err := pointOf(p, p.argv["volume"])
	if err != nil {
		return err
	}
	if lxc.Running(p.vmid) {
		return host.Dief("cannot move volumes of a running container")
	}
	if m.Bind() {
		return host.Dief("unable to move volume '%s' (type bind)", m.Volume)
	}
	return host.Dief("the stand-in moves no volumes")
}

func migrate(p *call) error {
	_, m, err := pointOf(p, "rootfs")
	if err != nil {
		return err
	}
	switch {
	case p.on("online"):
		return host.Dief("lxc live migration is currently not implemented")
	case lxc.Running(p.vmid) && !p.on("restart"):
		return host.Dief("running container can only be migrated in restart mode")
	case m.Bind():
		return host.Dief("cannot migrate local bind mount point 'rootfs'")
	}
	return host.Dief("target node '%s' is not online", p.argv["target"])
}

func df(p *call) error {
	_, m, err := pointOf(p, "rootfs")
	if err != nil {
		return err
	}
	fmt.Printf("%-6s %-7s %4s %4s %5s %4s %s\n", "MP", "Volume", "Size", "Used", "Avail", "Use%", "Path")
	fmt.Printf("%-6s %-7s %4s %4s %5s %4s %s\n", m.Key, m.Volume, def(m.Opts["size"], "4G"), "0", "0", "0.0", "/")
	return nil
}

func fsck(p *call) error {
	_, m, err := pointOf(p, def(p.opts["device"], "rootfs"))
	if err != nil {
		return err
	}
	if lxc.Running(p.vmid) {
		return host.Dief("cannot run fsck when container is running")
	}
	if m.Bind() || !strings.HasSuffix(m.Volume, ".raw") {
		return host.Dief("path '%s' does not point to a block device", m.Volume)
	}
	v, err := storage.Parse(m.Volume)
	if err != nil {
		return err
	}
	path, err := v.Path()
	if err != nil {
		return err
	}
	cmd := exec.Command("fsck", "-a", "-l", path)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func fstrim(p *call) error {
	if _, err := host.Load(p.vmid); err != nil {
		return err
	}
	pid, err := lxc.InitPid(p.vmid)
	if err != nil {
		return host.Dief("container '%d' not running!", p.vmid)
	}
	cmd := exec.Command("fstrim", "-v", fmt.Sprintf("/proc/%d/root/", pid))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

func rescan(*call) error { return nil }
