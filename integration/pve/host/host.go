// Package host is what the stand-in's commands share: where a Proxmox node has
// its things, the containers' configuration files and their locks, errors with
// Perl's exit codes, and the files by which a test steers the stand-in.
//
// All paths are Proxmox's own. A test has them for itself in its mount
// namespace; package node puts them there.
package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/pmxcfs"
)

// Proxmox's places, and Control, the stand-in's own.
const (
	EtcPVE  = "/etc/pve"
	LXCPath = "/var/lib/lxc"
	RunPVE  = "/run/pve"
	LockDir = "/run/lock/lxc"
	Control = "/run/pve-standin"
)

// Die is an error that ends a command: PVE's message and exit code.
type Die struct {
	Text string
	Code int
	Err  error // what it was made of, if anything
}

func (d *Die) Error() string { return d.Text }

func (d *Die) Unwrap() error { return d.Err }

// Dief is what a plain `die` gives: 255.
func Dief(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Die{Text: err.Error(), Code: 255, Err: errors.Unwrap(err)}
}

// DieCode is a die with errno set.
func DieCode(code int, format string, args ...any) error {
	return &Die{Text: fmt.Sprintf(format, args...), Code: code}
}

// Node is this node's name.
func Node() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Settings are what a test chose for the stand-in.
type Settings struct {
	Version  ctconf.Version // of Proxmox VE
	Self     string         // the multi-call binary
	Systemd  bool           // it has the units pve-container@VMID
	Slowness int            // how much longer pct waits than Proxmox's, where it is 0 as long
}

// LoadSettings reads them.
func LoadSettings() (Settings, error) {
	var s Settings
	data, err := os.ReadFile(filepath.Join(Control, "settings.json"))
	if err != nil {
		return s, fmt.Errorf("no stand-in host here: %w", err)
	}
	return s, json.Unmarshal(data, &s)
}

// Save writes them.
func (s Settings) Save() error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(Control, "settings.json"), data, 0o644)
}

// Version is the version of Proxmox VE that the stand-in imitates.
func Version() ctconf.Version {
	s, err := LoadSettings()
	if err != nil {
		return ctconf.PVE91
	}
	return s.Version
}

// Systemd says whether systemd starts the containers.
func Systemd() bool {
	s, err := LoadSettings()
	return err == nil && s.Systemd
}

// Limit is one of Proxmox's limits of time on this machine.
func Limit(d time.Duration) time.Duration {
	if s, err := LoadSettings(); err == nil && s.Slowness > 0 {
		return d * time.Duration(s.Slowness)
	}
	return d
}

// Quorate says whether the cluster can be written to.
func Quorate() bool { return pmxcfs.Quorum(filepath.Join(Control, "quorum"))() }

// CheckQuorum is what commands ask that change the cluster.
func CheckQuorum() error {
	if !Quorate() {
		return Dief("cluster not ready - no quorum?")
	}
	return nil
}

// Guest is one entry of .vmlist.
type Guest struct {
	Node string `json:"node"`
	Type string `json:"type"` // lxc or qemu
}

// Guests reads .vmlist.
func Guests() (map[int]Guest, error) {
	data, err := os.ReadFile(filepath.Join(EtcPVE, ".vmlist"))
	if err != nil {
		return nil, err
	}
	var list struct {
		IDs map[string]Guest `json:"ids"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	guests := map[int]Guest{}
	for id, g := range list.IDs {
		n, err := strconv.Atoi(id)
		if err != nil {
			return nil, err
		}
		guests[n] = g
	}
	return guests, nil
}

// ConfPath is the configuration file of a container of this node.
func ConfPath(vmid int) string {
	return filepath.Join(EtcPVE, "nodes", Node(), "lxc", fmt.Sprintf("%d.conf", vmid))
}

// Dir is a container's directory below LXCPath.
func Dir(vmid int) string { return filepath.Join(LXCPath, strconv.Itoa(vmid)) }

// Exists says whether this node has that container.
func Exists(vmid int) bool {
	_, err := os.Stat(ConfPath(vmid))
	return err == nil
}

// Load reads a container's configuration, and prints what is wrong with it.
func Load(vmid int) (*ctconf.Conf, error) {
	data, err := os.ReadFile(ConfPath(vmid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, DieCode(2, "Configuration file 'nodes/%s/lxc/%d.conf' does not exist", Node(), vmid)
	}
	if err != nil {
		return nil, Dief("%w", err)
	}
	c := ctconf.Parse(vmid, string(data), Version())
	for _, w := range c.Warnings {
		fmt.Fprintln(os.Stderr, w)
	}
	return c, nil
}

// Write replaces a container's configuration, as PVE does: a new file, renamed.
func Write(vmid int, c *ctconf.Conf) error {
	tmp := fmt.Sprintf("%s.tmp.%d", ConfPath(vmid), os.Getpid())
	if err := os.WriteFile(tmp, []byte(c.String()), 0o640); err != nil {
		return writeError(tmp, err)
	}
	if err := os.Rename(tmp, ConfPath(vmid)); err != nil {
		return writeError(tmp, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// Create writes the configuration of a container that must not exist anywhere
// in the cluster.
func Create(vmid int, c *ctconf.Conf) error {
	f, err := os.OpenFile(ConfPath(vmid), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return Taken(vmid)
	}
	if err != nil {
		return writeError(ConfPath(vmid), err)
	}
	_, err = f.WriteString(c.String())
	return errors.Join(err, f.Close())
}

// Taken says whose an id is: nil if nobody's.
func Taken(vmid int) error {
	guests, err := Guests()
	if err != nil {
		return err
	}
	g, ok := guests[vmid]
	if !ok {
		return nil
	}
	kind := "CT"
	if g.Type == "qemu" {
		kind = "VM"
	}
	return DieCode(2, "%s %d already exists on node '%s'", kind, vmid, g.Node)
}

func writeError(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &Die{Text: fmt.Sprintf("unable to open file '%s' - Permission denied", path), Code: 13, Err: err}
	}
	return Dief("unable to write '%s' - %w", path, err)
}

// CheckLock refuses a container that is locked.
func CheckLock(c *ctconf.Conf) error {
	if lock := c.Get("lock", ""); lock != "" {
		return Dief("CT is locked (%s)", lock)
	}
	return nil
}
