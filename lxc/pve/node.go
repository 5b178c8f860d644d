package pve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Node is the node of a Proxmox cluster that this machine is, by the places of
// its files.
type Node struct {
	Name  string // in the cluster
	Etc   string // the cluster's file system, /etc/pve
	Locks string // of the configurations
	LXC   string // LXC's path of all CTs
	Run   string // Proxmox's own /run
	Keep  string // our own directory, lost at reboot: markers of CTs

	SubIDs string   // directory of subuid and subgid
	Path   []string // where lxc-start looks for programs
}

// Local returns this machine's node. ErrFailedPrecondition if it is none, or if
// the cluster's file system is not mounted. keep is a directory of ours for
// markers, lost at reboot.
func Local(keep string) (*Node, error) {
	n := &Node{Etc: "/etc/pve", Locks: "/run/lock/lxc", LXC: "/var/lib/lxc", Run: "/run/pve", Keep: keep, SubIDs: "/etc", Path: systemdPath}
	link, err := os.Readlink(filepath.Join(n.Etc, "local"))
	if err != nil {
		return nil, fmt.Errorf("this machine is no node of Proxmox VE, or pve-cluster does not run: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	n.Name = filepath.Base(link)
	return n, nil
}

// systemdPath is what a unit of systemd has for its PATH (systemd.exec(5)).
var systemdPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"}

// Detect says whether this machine is a node of Proxmox VE that can run CTs.
func Detect() bool {
	_, err := Local("")
	if err != nil {
		return false
	}
	_, err = lookPath("", "pct")
	return err == nil
}

// Tag marks every CT of ours in the UI.
const Tag = "nexcage"

// IncludeName is the name of the file of LXC's keys of a CT, which says whose
// it is.
func IncludeName(node string, vmid int) string { return fmt.Sprintf("%s-%d.conf", node, vmid) }

func baseName(path string) string {
	if !filepath.IsAbs(path) {
		return ""
	}
	return filepath.Base(path)
}

func (n *Node) confDir() string { return filepath.Join(n.Etc, "nodes", n.Name, "lxc") }

func (n *Node) confPath(vmid int) string {
	return filepath.Join(n.confDir(), strconv.Itoa(vmid)+".conf")
}

// conf reads the configuration of a CT of this node. ErrNotFound without it.
func (n *Node) conf(vmid int) (*Conf, error) {
	text, err := os.ReadFile(n.confPath(vmid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CT %d on node %s: %w", vmid, n.Name, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("CT %d: %w", vmid, clusterError(err))
	}
	return ParseConf(text), nil
}

// has says whether this node has a CT of that VMID.
func (n *Node) has(vmid int) bool {
	_, err := os.Stat(n.confPath(vmid))
	return !errors.Is(err, fs.ErrNotExist)
}

// clusterError gives errors of the cluster's file system their class: without
// quorum it refuses every write.
func clusterError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cluster not ready - no quorum?: %w: %w", err, errdefs.ErrUnavailable)
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.EIO):
		return fmt.Errorf("pve-cluster does not run: %w: %w", err, errdefs.ErrUnavailable)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	default:
		return err
	}
}

// CTs lists the VMIDs of this node's containers.
func (n *Node) CTs() ([]int, error) {
	entries, err := os.ReadDir(n.confDir())
	if err != nil {
		return nil, clusterError(err)
	}
	var ids []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".conf")
		if id, err := strconv.Atoi(name); ok && err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// lock is Proxmox's own lock of one configuration.
type lock struct{ f *os.File }

// lock waits for the lock of a CT's configuration, which pct holds during
// whatever it does to it. ErrUnavailable when ctx ends before.
func (n *Node) lock(ctx context.Context, vmid int) (*lock, error) {
	f, err := n.lockFile(vmid)
	if err != nil {
		return nil, err
	}
	if err := flockUntil(ctx, f, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("CT %d: its configuration is locked by another process: %w", vmid, err)
	}
	return &lock{f}, nil
}

// flockUntil waits for the lock of f, and closes f if it does not get it.
// ErrUnavailable when ctx ends before.
func flockUntil(ctx context.Context, f *os.File, how int) error {
	if err := flock(f, how|unix.LOCK_NB); err == nil {
		return nil
	} else if !errors.Is(err, unix.EWOULDBLOCK) {
		return errors.Join(err, f.Close())
	}
	done := make(chan error, 1)
	go func() { done <- flock(f, how) }()
	select {
	case err := <-done:
		if err != nil {
			return errors.Join(err, f.Close())
		}
		return nil
	case <-ctx.Done():
		// flock(2) can not be given up: what it gets is given back at once.
		go func() { <-done; _ = f.Close() }()
		return fmt.Errorf("%w: %w", ctx.Err(), errdefs.ErrUnavailable)
	}
}

// tryLock is lock without the wait: nil if somebody has it.
func (n *Node) tryLock(vmid int) (*lock, error) {
	f, err := n.lockFile(vmid)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	return nil, err
}

func (n *Node) lockFile(vmid int) (*os.File, error) {
	if err := os.MkdirAll(n.Locks, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(n.Locks, fmt.Sprintf("pve-config-%d.lock", vmid)), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

func (l *lock) release() {
	if l != nil {
		_ = l.f.Close() // unlocks
	}
}
