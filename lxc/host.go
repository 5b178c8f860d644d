package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/monitor"
	"github.com/cageforge/containerd-shim-nexcage/lxc/native"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// The kinds of host, as in Record.Host.
const (
	HostNative = "native" // plain LXC
	HostPVE    = "pve"    // a node of Proxmox VE
)

// Host is what Create needs of the machine. What is to be removed later is
// found by the record alone, in any process (Record.Destroy).
type Host interface {
	// HasRoot says whether the host itself has the container's root file system,
	// so that the snapshot is not to be mounted. It is asked first.
	HasRoot(ctx context.Context, r *Request) (bool, error)
	// Reserve takes the container's place on the host, and writes it to the
	// record. It calls save before it lets others see the place without a
	// record; the record may be destroyed from then on.
	Reserve(ctx context.Context, c *Config, r *Record, save func() error) error
	// Start starts LXC in that place. It does not wait: the container is up
	// when the helper connects.
	Start(ctx context.Context, c *Config, r *Record) (Instance, error)
	// Show tells it the limits of a container that were updated, for what it
	// shows of them. They are in force already: it can not fail.
	Show(ctx context.Context, r *Record, limits *specs.LinuxResources)
	// MakesGroup says that LXC makes the container's control group, and not
	// Create: it is that of the first process then, one level up.
	MakesGroup() bool
}

// Instance is a container that LXC is starting or runs.
type Instance interface {
	// Monitor is the pid of lxc-start; 0 while it is not known.
	Monitor() int
	// Adopt tells it the first process, which was not known before. Monitor
	// is known from then on.
	Adopt(init int) error
	// Ready waits until the host has done its own part of the start, which
	// may go on after the helper has connected.
	Ready(ctx context.Context) error
	// Root is the root file system, as a detached mount that is the caller's,
	// if the host has it; nil for root.path. It may be asked for once the
	// helper has connected.
	Root() (*os.File, error)
	// Ended tells it that nobody reads the control group any more.
	Ended()
	// Done is closed when LXC has ended: it could not start the container,
	// or the container is gone and cleaned up after.
	Done() <-chan struct{}
	// Failure says why LXC could not start the container, once Done is
	// closed.
	Failure() error
}

// Config is a container for a Host to start.
type Config struct {
	Request *Request
	Plan    *oci.Plan
	Cgroup  string // of the container, below the root of each hierarchy
}

// Native makes plain LXC a Host.
func Native(h *native.Host) Host { return nativeHost{h} }

type nativeHost struct{ *native.Host }

func (h nativeHost) Reserve(_ context.Context, c *Config, r *Record, save func() error) error {
	r.Host, r.LXCPath, r.Name = HostNative, h.LXCPath, c.Request.ID
	return save()
}

func (h nativeHost) Start(ctx context.Context, c *Config, r *Record) (Instance, error) {
	i, err := h.Host.Start(ctx, r.native(c.Plan.Config))
	if err != nil {
		return nil, err
	}
	return nativeInstance{i}, nil
}

type nativeInstance struct{ *native.Instance }

func (nativeHost) Show(context.Context, *Record, *specs.LinuxResources) {}

func (nativeHost) MakesGroup() bool                                { return false }
func (nativeHost) HasRoot(context.Context, *Request) (bool, error) { return false, nil }

func (nativeInstance) Adopt(int) error             { return nil }
func (nativeInstance) Ready(context.Context) error { return nil }
func (nativeInstance) Root() (*os.File, error)     { return nil, nil }
func (nativeInstance) Ended()                      {}

// native is the container on plain LXC.
func (r *Record) native(lines []lxcconf.Line) native.Config {
	return native.Config{Name: r.Name, Base: r.base(), Log: filepath.Join(r.StateDir, "lxc-start.log"), Lines: lines}
}

// removeFromHost gives the container's place on the host back.
func (r *Record) removeFromHost(ctx context.Context) error {
	switch {
	case r.Host == HostPVE:
		return errors.Join(r.base().Remove(), r.removeCT(ctx), monitor.Sweep(r.LXCPath))
	case r.Host == "" && r.LXCPath == "":
		return r.base().Remove()
	case r.Host == HostNative, r.Host == "": // as records were before they told the host
		host := native.Host{LXCPath: r.LXCPath}
		return errors.Join(host.Remove(r.native(nil)), monitor.Sweep(r.LXCPath))
	default:
		return fmt.Errorf("record of %s: host %q is not known: %w", r.Name, r.Host, errdefs.ErrFailedPrecondition)
	}
}
