package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setting is one value for one file of the group.
type setting struct {
	property   string // of the spec, below linux.resources
	controller string
	file       string
	value      string
	// optional is for what means nothing where the kernel lacks the file, as
	// no limit for swap where there is no accounting of swap.
	optional bool
}

// Apply sets the limits of r, at the creation of a container or for an update.
// What r does not mention stays as it is; a zero is not mentioned, as in runc,
// except where the spec has a meaning for it. An error names the property
// that could not be set: of class ErrNotImplemented if this host has no such
// limit, ErrInvalidArgument or ErrFailedPrecondition if the kernel refused the
// value.
func (g *Group) Apply(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := g.checkUsage(r.Memory); err != nil {
		return err
	}
	settings, err := g.translate(r)
	if err != nil {
		return err
	}
	if err := g.setAll(settings); err != nil {
		return err
	}
	return g.applyDevices(r.Devices)
}

func (g *Group) translate(r *specs.LinuxResources) ([]setting, error) {
	t := &table{read: g.read}
	if g.unified {
		return t.v2(r)
	}
	return t.v1(r)
}

// setAll writes the settings. The kernel checks each value against those that
// are there now (memory and swap, quota and period and burst), so which order
// works depends on the old values: what it calls invalid is tried again as
// long as something else could be set meanwhile.
func (g *Group) setAll(settings []setting) error {
	for {
		var again []setting
		var first error
		for _, s := range settings {
			err := g.set(s)
			if err == nil {
				continue
			}
			if !errors.Is(err, unix.EINVAL) {
				return err
			}
			if again = append(again, s); first == nil {
				first = err
			}
		}
		if len(again) == 0 || len(again) == len(settings) {
			return first
		}
		settings = again
	}
}

func (g *Group) set(s setting) error {
	dir, err := g.limitDir(s.controller)
	if err == nil && g.scope && isShare(s.file) {
		err = write(filepath.Join(filepath.Dir(dir), s.file), s.value)
	}
	if err == nil {
		err = write(filepath.Join(dir, s.file), s.value)
	}
	if err == nil || s.optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, errdefs.ErrNotImplemented)) {
		return nil
	}
	return fmt.Errorf("linux.resources.%s: %s: %w", s.property, s.value, g.explain(s, dir, err))
}

// explain turns an errno into the class of an error and words for a user.
func (g *Group) explain(s setting, dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return g.explainMissing(s, dir)
	case errors.Is(err, unix.EBUSY) && s.controller == "memory":
		usage, _ := g.usage()
		return fmt.Errorf("%w (%d bytes are in use): %w", err, usage, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	default:
		return err
	}
}

// explainMissing says why a file is not there.
func (g *Group) explainMissing(s setting, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control group %s: %w", dir, errdefs.ErrNotFound)
	}
	if g.unified {
		has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err == nil && !slices.Contains(strings.Fields(string(has)), s.controller) {
			return fmt.Errorf("the controller %q is not enabled for %s, which has %q: %w",
				s.controller, dir, strings.TrimSpace(string(has)), errdefs.ErrNotImplemented)
		}
	}
	return fmt.Errorf("this kernel has no %s: %w", s.file, errdefs.ErrNotImplemented)
}

// read returns what is in a file of the group; false if there is none.
func (g *Group) read(controller, file string) (string, bool) {
	dir, err := g.limitDir(controller)
	if err != nil {
		return "", false
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b)), err == nil
}

// usage of memory, in bytes.
func (g *Group) usage() (uint64, error) {
	file := "memory.usage_in_bytes"
	if g.unified {
		file = "memory.current"
	}
	dir, err := g.dir("memory")
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// checkUsage refuses limits below the usage where the spec asks for that
// (memory.checkBeforeUpdate).
func (g *Group) checkUsage(m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate {
		return nil
	}
	for _, l := range []struct {
		property string
		limit    *int64
	}{{"limit", m.Limit}, {"swap", m.Swap}} {
		if l.limit == nil || *l.limit <= 0 {
			continue
		}
		usage, err := g.usage()
		if err != nil {
			return fmt.Errorf("linux.resources.memory.checkBeforeUpdate: %w", err)
		}
		if usage > uint64(*l.limit) {
			return fmt.Errorf("linux.resources.memory.%s: %d: is less than the %d bytes in use: %w",
				l.property, *l.limit, usage, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
