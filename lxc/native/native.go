// Package native runs containers with plain LXC: it writes the configuration,
// starts lxc-start, and removes everything that LXC leaves behind. It is the
// host where there is no Proxmox, and knows nothing of OCI: what the container
// is comes as lines of configuration.
//
// LXC never sees the image. It starts the container on an empty base
// directory, in which there is the helper and its socket; package rootfs
// replaces that base (package base) while the helper waits.
package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/base"
	"github.com/cageforge/containerd-shim-nexcage/lxc/cgroup"
	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// Host is a machine with LXC on it.
type Host struct {
	LXCStart string // path of lxc-start
	LXCPath  string // absolute; the command sockets are named after it
	Helper   string // path of nexcage-init
}

// Config is a container to be started.
type Config struct {
	Name  string
	Base  base.Dir
	Log   string // file that gets what lxc-start prints
	Lines []lxcconf.Line
}

// unconfined is for the helper. As with the other runtimes, a container is
// confined by the AppArmor profile that its spec names, or not at all; an
// unconfined helper may change to any profile, also under no_new_privs.
var unconfined = lxcconf.Set("lxc.apparmor.profile", "unconfined")

// Instance is a container that LXC runs.
type Instance struct {
	host    *Host
	config  Config
	monitor *child.Child
}

// Start starts lxc-start in the foreground. It returns as soon as the process
// runs: the container is up when the helper connects.
func (h *Host) Start(ctx context.Context, c Config) (_ *Instance, retErr error) {
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, h.Remove(c))
		}
	}()
	if err := h.prepare(c); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(h.LXCStart, "-F", "-n", c.Name, "-P", h.LXCPath)
	// No PATH: with newuidmap in it, LXC would have that write lxc.idmap, which
	// refuses root what /etc/subuid does not list.
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	var monitor *child.Child
	err = cgroup.Hide(func() (err error) {
		monitor, err = child.Start(cmd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", h.LXCStart, err)
	}
	_ = cmd.Process.Release() // lxc/child watches it
	log.G(ctx).WithField("argv", cmd.Args).WithField("pid", monitor.Pid()).Debug("started lxc-start")
	return &Instance{host: h, config: c, monitor: monitor}, nil
}

// prepare makes the base directory and writes the configuration.
func (h *Host) prepare(c Config) error {
	if err := c.Base.Make(); err != nil {
		return err
	}
	if err := os.MkdirAll(h.dir(c.Name), 0o711); err != nil {
		return err
	}
	conf, err := lxcconf.Marshal(append(h.lines(c), c.Lines...))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.dir(c.Name), "config"), conf, 0o600)
}

func (h *Host) lines(c Config) []lxcconf.Line {
	root := lxcconf.Set("lxc.rootfs.path", "dir:"+string(c.Base))
	return slices.Concat([]lxcconf.Line{root}, base.Lines(h.Helper), []lxcconf.Line{unconfined})
}

func (h *Host) dir(name string) string { return filepath.Join(h.LXCPath, name) }

// Monitor is the pid of lxc-start.
func (i *Instance) Monitor() int { return i.monitor.Pid() }

// Done is closed when lxc-start has ended: the container is gone, and LXC has
// cleaned up after it.
func (i *Instance) Done() <-chan struct{} { return i.monitor.Done() }

// Failure says why LXC could not start the container, in LXC's own words.
func (i *Instance) Failure() error {
	text, err := startLog(i.config.Log)
	if err != nil {
		text = err.Error()
	}
	return fmt.Errorf("lxc-start %s: exit status %d: %s", i.config.Name, i.monitor.Exit().Status, text)
}

// Remove removes what the container had on this host. It must have ended.
func (i *Instance) Remove() error { return i.host.Remove(i.config) }

// Remove removes the configuration, the base directory and LXC's lock file of
// a container that has ended or was never started.
func (h *Host) Remove(c Config) error {
	errs := []error{c.Base.Remove()}
	for _, p := range []string{filepath.Join(h.dir(c.Name), "config"), h.dir(c.Name), h.lock(c.Name)} {
		errs = append(errs, ignoreMissing(os.Remove(p)))
	}
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lock is the file that liblxc locks a container by (lxclock.c).
func (h *Host) lock(name string) string {
	return filepath.Join("/run/lxc/lock", h.LXCPath, "."+name)
}
