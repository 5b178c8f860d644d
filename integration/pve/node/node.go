// Package node makes the machine of a test a Proxmox node: in the test's own
// mount namespace it puts the stand-in's commands, hooks and file systems
// where Proxmox has them, and starts what runs there.
//
// Call it in a session of package harness only: it mounts over /etc/pve,
// /var/lib and /usr/share/lxc. Where systemd starts the containers the machine
// is the node's, and thrown away: it mounts /etc/pve, and writes to the others.
package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

// Commands and hooks: the roles of the multi-call binary.
var (
	Commands = []string{"pct", "pvesh", "pveversion"}
	Hooks    = []string{"lxc-pve-prestart-hook", "lxc-pve-autodev-hook", "lxc-pve-poststop-hook"}
)

// hooksConf is Proxmox's 01-pve.conf, in common.conf.d.
const hooksConf = `lxc.hook.pre-start = /usr/share/lxc/hooks/lxc-pve-prestart-hook
lxc.hook.autodev = /usr/share/lxc/hooks/lxc-pve-autodev-hook
lxc.hook.post-stop = /usr/share/lxc/hooks/lxc-pve-poststop-hook
`

// Node is a running stand-in.
type Node struct {
	Dir     string // everything of it that is not at Proxmox's places
	Sbin    string // has pct, pvesh and pveversion
	daemon  *exec.Cmd
	running io.Closer // the daemon ends when this is closed
}

// Start makes this machine a node. dir must be the session's; binary is the
// multi-call program, of which it runs a copy (settings.Self).
func Start(ctx context.Context, dir, binary string, settings host.Settings) (*Node, error) {
	n := &Node{Dir: dir, Sbin: filepath.Join(dir, "sbin")}
	for _, d := range []string{dir, n.Sbin, host.Control, host.RunPVE, host.LockDir, host.EtcPVE} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	// As systemd has it: later mounts reach the namespaces that LXC makes.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, fmt.Errorf("make mounts shared: %w", err)
	}
	if !settings.Systemd {
		if err := errors.Join(n.overlay("var-lib", "/var/lib"), n.overlay("share-lxc", "/usr/share/lxc")); err != nil {
			return nil, err
		}
	}
	binary, err := n.copy(binary)
	if err != nil {
		return nil, err
	}
	if err := n.install(binary); err != nil {
		return nil, err
	}
	settings.Self = binary
	if err := settings.Save(); err != nil {
		return nil, err
	}
	if settings.Systemd {
		if err := useSystemd(ctx, binary); err != nil {
			return nil, err
		}
	}
	if err := n.startDaemon(ctx, binary); err != nil {
		return nil, err
	}
	return n, errors.Join(
		os.WriteFile(filepath.Join(host.EtcPVE, "storage.cfg"), []byte(storage.Default("/var/lib/vz/rpool/data")), 0o640),
		os.WriteFile(filepath.Join(host.EtcPVE, "datacenter.cfg"), []byte("keyboard: en-us\n"), 0o640))
}

func (n *Node) overlay(name, path string) error {
	upper, work := filepath.Join(n.Dir, name, "upper"), filepath.Join(n.Dir, name, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	data := "lowerdir=" + path + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", path, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount an overlay at %s: %w", path, err)
	}
	return nil
}

// copy makes the program reachable for an unprivileged container's root, who
// runs the hooks.
func (n *Node) copy(binary string) (string, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("the stand-in's program (was `make standin` run?): %w", err)
	}
	path := filepath.Join(n.Dir, "pve-standin")
	return path, os.WriteFile(path, data, 0o755)
}

// install puts the commands, hooks and directories at their places.
func (n *Node) install(binary string) error {
	links := map[string]string{"/usr/share/lxc/lxcnetaddbr": binary}
	for _, name := range Commands {
		links[filepath.Join(n.Sbin, name)] = binary
	}
	for _, name := range Hooks {
		links[filepath.Join("/usr/share/lxc/hooks", name)] = binary
	}
	for path, target := range links {
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	for _, d := range []string{"images", "template/cache", "dump", "snippets", "isoonly", "rpool/data"} {
		if err := os.MkdirAll(filepath.Join("/var/lib/vz", d), 0o755); err != nil {
			return err
		}
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} { // as Proxmox installs them
		if err := os.WriteFile(path, []byte("root:100000:65536\n"), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile("/usr/share/lxc/config/common.conf.d/01-pve.conf", []byte(hooksConf), 0o644)
}

// startLimit is how long the daemon may take to be ready.
const startLimit = 20 * time.Second

func (n *Node) startDaemon(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, binary)
	cmd.Args[0] = "pve-node"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the stand-in's daemon: %w", err)
	}
	n.daemon, n.running = cmd, in
	timer := time.AfterFunc(host.Limit(startLimit), func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		return errors.Join(fmt.Errorf("the stand-in's daemon did not become ready: %w", err), n.Close())
	}
	return nil
}

// Close ends the daemon. Mounts end with the session.
func (n *Node) Close() error {
	err := n.running.Close()
	_ = n.daemon.Wait() // of no interest but that it ended
	return err
}

// Bridge makes a bridge with an address, as /etc/network/interfaces would.
func (n *Node) Bridge(name, address string) error {
	for _, argv := range [][]string{
		{"ip", "link", "add", name, "type", "bridge"}, {"ip", "addr", "add", address, "dev", name}, {"ip", "link", "set", name, "up"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
	}
	return nil
}

// SetQuorum takes the cluster's quorum away, or gives it back.
func (n *Node) SetQuorum(yes bool) error {
	value := "1"
	if !yes {
		value = "0"
	}
	return os.WriteFile(filepath.Join(host.Control, "quorum"), []byte(value), 0o644)
}

// Version of Proxmox VE that it is a node of.
func (n *Node) Version() ctconf.Version { return host.Version() }

// SetVersion makes it a node of another one.
func (n *Node) SetVersion(v ctconf.Version) error {
	s, err := host.LoadSettings()
	if err != nil {
		return err
	}
	s.Version = v
	return s.Save()
}

// SetFaults lets commands fail from now on; none lets them work.
func (n *Node) SetFaults(faults ...host.Fault) error { return host.WriteFaults(faults) }

// Calls are the calls of the commands so far, in the order of their end.
func (n *Node) Calls() ([]host.Call, error) {
	data, err := os.ReadFile(filepath.Join(host.Control, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var calls []host.Call
	for line := range strings.Lines(string(data)) {
		var c host.Call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, nil
}
