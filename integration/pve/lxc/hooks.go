package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// hookID is the container of a hook that LXC runs; ok is false for one that is
// not Proxmox's.
func hookID() (int, bool) {
	vmid, err := strconv.Atoi(os.Getenv("LXC_NAME"))
	return vmid, err == nil && host.Exists(vmid) && filepath.Dir(filepath.Dir(os.Getenv("LXC_CONFIG_FILE"))) == host.LXCPath
}

// PreStart is lxc-pve-prestart-hook: in lxc-start's mount namespace it mounts
// the root file system where the generated configuration has it.
func PreStart() error {
	vmid, ok := hookID()
	if !ok {
		return nil
	}
	if err := host.CheckQuorum(); err != nil {
		return err
	}
	c, err := host.Load(vmid)
	if err != nil {
		return err
	}
	if lock := c.Get("lock", ""); lock != "" && lock != "mounted" {
		return host.CheckLock(c)
	}
	root := filepath.Join(host.Dir(vmid), "rootfs")
	if err := Unmount(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := Mount(c, root); err != nil {
		return err
	}
	return passthrough(vmid, c)
}

// passthrough makes the devN nodes on a tmpfs that the autodev hook binds from.
func passthrough(vmid int, c *ctconf.Conf) error {
	devices, err := Devices(c)
	if err != nil || len(devices) == 0 {
		return err
	}
	dir := filepath.Join(host.Dir(vmid), "passthrough")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=8k"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	shift := 0
	if c.On("unprivileged") {
		shift = 100000
	}
	for _, d := range devices {
		path := filepath.Join(dir, d.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, d.Mode, int(d.Dev)); err != nil {
			return fmt.Errorf("mknod %s: %w", path, err)
		}
		if err := errors.Join(unix.Chmod(path, d.Mode&0o7777), unix.Chown(path, d.UID+shift, d.GID+shift)); err != nil {
			return err
		}
	}
	return nil
}

// AutoDev is lxc-pve-autodev-hook: it binds the devN nodes into the
// container's /dev.
func AutoDev() error {
	dir := filepath.Join(filepath.Dir(os.Getenv("LXC_CONFIG_FILE")), "passthrough")
	root := os.Getenv("LXC_ROOTFS_MOUNT")
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		target := filepath.Join(root, strings.TrimPrefix(path, dir))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, nil, 0o644); err != nil {
			return err
		}
		return unix.Mount(path, target, "", unix.MS_BIND, "")
	})
}

// ErrReboot makes lxc-start end: the unit is restarted instead.
var ErrReboot = errors.New("the container reboots")

// RebootFile asks the unit to start the container again.
func RebootFile(vmid int) string { return filepath.Join(host.Dir(vmid), "reboot") }

// PostStop is lxc-pve-poststop-hook.
func PostStop() error {
	vmid, ok := hookID()
	if !ok {
		return nil
	}
	c, err := host.Load(vmid)
	if err != nil {
		return err
	}
	for _, name := range []string{"rootfs", "passthrough"} {
		if err := Unmount(filepath.Join(host.Dir(vmid), name)); err != nil {
			return err
		}
	}
	if os.Getenv("LXC_TARGET") != "reboot" {
		return nil
	}
	if host.Quorate() {
		if err := ApplyPending(vmid, c); err != nil {
			return err
		}
	}
	if err := WriteConfig(vmid, c); err != nil {
		return err
	}
	if err := os.WriteFile(RebootFile(vmid), nil, 0o644); err != nil {
		return err
	}
	return ErrReboot
}

// NetUp is lxcnetaddbr: it puts the host's end of a veth pair on its bridge.
// The arguments are LXC's: name, "net", "up", type, interface.
func NetUp(args []string) error {
	if len(args) < 5 {
		return fmt.Errorf("lxcnetaddbr: arguments %q", args)
	}
	vmid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	_, index, ok := strings.Cut(args[4], "i")
	if !ok {
		return fmt.Errorf("lxcnetaddbr: interface %q", args[4])
	}
	c, err := host.Load(vmid)
	if err != nil {
		return err
	}
	p, err := ctconf.ParsePairs(c.Get("net"+index, ""), "")
	if err != nil || p["bridge"] == "" {
		return err
	}
	bridge, err := tagged(p["bridge"], p["tag"])
	if err != nil {
		return err
	}
	return run("ip", "link", "set", args[4], "master", bridge, "up")
}

// tagged returns the bridge for a VLAN: one of its own beside a bridge that
// knows no VLANs, as Proxmox makes it.
func tagged(bridge, tag string) (string, error) {
	if !exists(bridge) {
		return "", fmt.Errorf("bridge '%s' does not exist", bridge)
	}
	if tag == "" {
		return bridge, nil
	}
	name := bridge + "v" + tag
	if exists(name) {
		return name, nil
	}
	return name, errors.Join(run("ip", "link", "add", name, "type", "bridge"), run("ip", "link", "set", name, "up"))
}

// exists asks the kernel: /sys may show another network namespace.
func exists(bridge string) bool {
	_, err := net.InterfaceByName(bridge)
	return err == nil
}

// checkBridges refuses a start without a bridge that is named.
func checkBridges(c *ctconf.Conf) error {
	for _, key := range Keys(c, "net") {
		p, err := ctconf.ParsePairs(c.Props[key], "")
		if err != nil {
			return host.Dief("%w", err)
		}
		if p["bridge"] != "" && !exists(p["bridge"]) {
			return host.Dief("bridge '%s' does not exist", p["bridge"])
		}
	}
	return nil
}

func run(argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("command '%s' failed: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
