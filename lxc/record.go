package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/base"
	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/lxc/idrange"
	"github.com/cageforge/containerd-shim-nexcage/lxc/netdev"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/lxc/resctrl"
)

// Record is what a container has on this machine: enough to destroy it when
// the shim has died.
type Record struct {
	Bundle   string   `json:"bundle"`
	StateDir string   `json:"stateDir"`
	Rootfs   string   `json:"rootfs,omitempty"` // where the snapshot is mounted
	Host     string   `json:"host,omitempty"`   // HostNative or HostPVE; "" before it has a place there
	LXCPath  string   `json:"lxcPath,omitempty"`
	Name     string   `json:"name,omitempty"` // of the LXC container
	Init     Proc     `json:"init"`
	Monitor  Proc     `json:"monitor"`           // lxc-start
	Cgroups  []string `json:"cgroups,omitempty"` // directories of the control group
	Unit     *Unit    `json:"unit,omitempty"`    // if the group is below one of systemd's
	// IntelRdt is where it is in resctrl.
	IntelRdt *resctrl.Group `json:"intelRdt,omitempty"`
	// NetDevices of the host that are in the container.
	NetDevices []netdev.Device `json:"netDevices,omitempty"`
	// IDRange is what the container's own user namespace maps, if the spec has
	// none (UserNS).
	IDRange *idrange.Range `json:"idRange,omitempty"`

	// On Proxmox.
	Volume    bool   `json:"volume,omitempty"` // the root file system is the CT's own
	Node      string `json:"node,omitempty"`
	VMID      int    `json:"vmid,omitempty"`
	Keep      string `json:"keep,omitempty"` // directory of the markers
	Namespace string `json:"namespace,omitempty"`
	ID        string `json:"id,omitempty"`
}

// Proc names a process for longer than it lives: a pid alone is used again.
type Proc struct {
	PID int `json:"pid,omitempty"`
	// StartTime in clock ticks after boot (proc_pid_stat(5), field 22).
	StartTime uint64 `json:"startTime,omitempty"`
}

// ProcOf returns the process that has this pid now.
func ProcOf(pid int) (Proc, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Proc{}, err
	}
	// The name, field 2, may hold blanks and parentheses.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const startTime = 22 - 3 // the first field here is number 3
	if len(fields) <= startTime {
		return Proc{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	t, err := strconv.ParseUint(fields[startTime], 10, 64)
	return Proc{PID: pid, StartTime: t}, err
}

// ThisProcess names the calling process.
func ThisProcess() (Proc, error) { return ProcOf(os.Getpid()) }

// Alive says whether the process has not ended.
func (p Proc) Alive() (bool, error) {
	f, err := p.open()
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// open returns a pidfd of the process; ErrNotFound if it has ended.
func (p Proc) open() (*os.File, error) {
	if p.PID == 0 {
		return nil, errdefs.ErrNotFound
	}
	f, err := pidfd.Open(p.PID)
	if err != nil {
		return nil, err
	}
	if now, err := ProcOf(p.PID); err != nil || now != p {
		_ = f.Close()
		return nil, errdefs.ErrNotFound
	}
	return f, nil
}

// await waits until the process is gone.
func (p Proc) await(ctx context.Context) error {
	f, err := p.open()
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return pidfd.WaitGone(ctx, f)
}

// end kills the process if it does not end by itself within patience, and
// waits until it is gone.
func (p Proc) end(ctx context.Context, patience time.Duration) error {
	f, err := p.open()
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := pidfd.WaitGone(wait, f); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	if err := pidfd.Signal(f, unix.SIGKILL); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	return pidfd.WaitGone(ctx, f)
}

func (r *Record) base() base.Dir { return base.Dir(filepath.Join(r.StateDir, "base")) }

// Time that LXC gets to end and clean up after the container's processes.
const monitorPatience = 1500 * time.Millisecond

// Destroy ends the container, whatever its state, and removes it. What has
// gone already is no error.
func (r *Record) Destroy(ctx context.Context) error {
	if space := r.holdNetwork(); space != nil {
		defer func() {
			r.returnNetDevices(ctx, space)
			_ = space.Close() // nothing was written
		}()
	}
	if group, err := cgroup.At(r.Cgroups); err == nil {
		if err := group.KillAndWait(ctx); err != nil {
			return fmt.Errorf("kill container %s: %w", r.Name, err)
		}
	} else if !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	if err := r.Init.end(ctx, 0); err != nil {
		return err
	}
	// Proxmox's own clean-up takes seconds, and is not to be cut off.
	if r.Host != HostPVE {
		if err := r.Monitor.end(ctx, monitorPatience); err != nil {
			return err
		}
	}
	return r.remove(ctx)
}

// remove removes what a container that has ended has left.
func (r *Record) remove(ctx context.Context) error {
	errs := []error{cgroup.Remove(r.Cgroups), r.Unit.remove(ctx), r.IntelRdt.Remove()}
	if r.Rootfs != "" {
		errs = append(errs, mount.UnmountRecursive(r.Rootfs, 0))
	}
	if err := errors.Join(append(errs, r.removeFromHost(ctx))...); err != nil || r.IDRange == nil {
		return err
	}
	return r.IDRange.Free()
}
