// Package cgroup makes and works on the control group of one container: its
// limits, figures and OOM kills, freezing, the processes in it, and its
// removal, on cgroup v1 and v2.
//
// The group is under one path in every hierarchy, as linux.cgroupsPath says,
// and the container's processes are directly in it. It is made here before
// there is a process, and outlives the last one, so that the figures of the
// end can be read; LXC is kept away from it (see Hide).
//
// Figures come from containerd's cgroups library, as the runc shim's do.
// Limits are translated and written here, so that an error can name the
// property of the spec.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// place is a group in one hierarchy.
type place struct {
	hierarchy
	dir string
}

// Group is the control group of a container.
type Group struct {
	unified bool // its controllers are cgroup v2's
	scope   bool // it is alone in a scope of systemd's
	places  []place
	inner   string // name of the group below it that has the processes; "" for itself (OfLXC)

	// freezer is held while processes are frozen or thawed, so that killing
	// does not resume a container that is being paused.
	freezer sync.Mutex

	filter filter // v2: the BPF program that decides about devices

	mu   sync.Mutex          // guards what follows
	last any                 // figures that Keep took
	stat func() (any, error) // reads the figures; nil before the first time
}

// Create makes the group for a path as Path returns it. A group that is there
// already is taken if no process is in it or below it; else the error is
// ErrAlreadyExists.
func Create(path string) (*Group, error) {
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	return h.create(path)
}

func (h *host) create(path string) (_ *Group, retErr error) {
	g := &Group{unified: h.unified()}
	defer func() {
		if retErr != nil && !errors.Is(retErr, errdefs.ErrAlreadyExists) {
			retErr = errors.Join(retErr, g.Remove())
		}
	}()
	for _, v := range h.used() {
		p := place{v, filepath.Join(v.mount, path)}
		if err := p.create(); err != nil {
			return nil, fmt.Errorf("create control group: %w", err)
		}
		g.places = append(g.places, p)
	}
	if pids, err := g.Pids(); err != nil || len(pids) > 0 {
		return nil, errors.Join(err, fmt.Errorf("control group %s: has processes %v: %w", path, pids, errdefs.ErrAlreadyExists))
	}
	return g, nil
}

// create makes the directory and those above it.
func (p place) create() error {
	parent := p.mount
	for name := range strings.SplitSeq(strings.Trim(p.dir[len(p.mount):], "/"), "/") {
		if p.v2 {
			enableControllers(parent)
		}
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if slices.Contains(p.names, "cpuset") {
			if err := inheritCpuset(dir, parent); err != nil {
				return err
			}
		}
		parent = dir
	}
	return nil
}

// enableControllers gives the groups below dir every controller that dir has.
// Some may be refused, as by a parent that has processes of its own; who needs
// such a one is told by Apply.
func enableControllers(dir string) {
	available, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	file := filepath.Join(dir, "cgroup.subtree_control")
	enabled, _ := os.ReadFile(file)
	for _, c := range strings.Fields(string(available)) {
		if !slices.Contains(strings.Fields(string(enabled)), c) {
			_ = write(file, "+"+c)
		}
	}
}

// inheritCpuset fills in the CPUs and memory nodes of a new v1 group: it has
// none, and no process can be put into it before.
func inheritCpuset(dir, parent string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		above, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, name), string(bytes.TrimSpace(above))); err != nil {
			return err
		}
	}
	return nil
}

// Of returns the group that a process is in.
func Of(pid int) (*Group, error) {
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	file := fmt.Sprintf("/proc/%d/cgroup", pid)
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	places, err := h.groupOf(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return h.load(places)
}

// At returns the group that has these directories, as Dirs returned them.
// ErrNotFound if all are gone.
func At(dirs []string) (*Group, error) {
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	var places []place
	for _, dir := range dirs {
		for _, v := range h.all() {
			if strings.HasPrefix(dir, v.mount+"/") && slices.IndexFunc(places, func(p place) bool { return p.dir == dir }) < 0 {
				places = append(places, place{v, filepath.Clean(dir)})
			}
		}
	}
	return h.load(places)
}

// load keeps the places that exist.
func (h *host) load(places []place) (*Group, error) {
	g := &Group{unified: h.unified()}
	for _, p := range places {
		if _, err := os.Stat(p.dir); err == nil {
			g.places = append(g.places, p)
		}
	}
	if len(g.places) == 0 {
		return nil, fmt.Errorf("control group: %w", errdefs.ErrNotFound)
	}
	return g, nil
}

// Dirs returns the group's directories, for At and Remove in another process.
func (g *Group) Dirs() []string {
	var dirs []string
	for _, p := range g.places {
		dirs = append(dirs, p.dir)
	}
	return dirs
}

// dir returns the group's directory of a controller; on cgroup v2 it has only
// one. ErrNotImplemented if this host does not have the controller.
func (g *Group) dir(controller string) (string, error) {
	for _, p := range g.places {
		if g.unified && p.v2 || !g.unified && slices.Contains(p.names, controller) {
			return p.dir, nil
		}
	}
	return "", fmt.Errorf("this host has no cgroup controller %q: %w", controller, errdefs.ErrNotImplemented)
}

// write writes a value to a file of a group. Unlike os.WriteFile, it makes no
// file, and has no time for another value between O_TRUNC and the write.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// isGone says whether an error is that of a group that has been removed: its
// directory is not there, or, with the file still open, ENODEV.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}
