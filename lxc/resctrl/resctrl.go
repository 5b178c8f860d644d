// Package resctrl puts a container into a class of service of the kernel's
// resctrl file system (runtime-spec 1.3.0, config-linux.md, "IntelRdt"; kernel
// documentation, filesystems/resctrl.rst). In spite of the property's name it
// serves other processors as well.
//
// It is for the LXC backend. It mounts nothing, and changes nothing in groups
// that are another's, but for the schemata that the spec has for them.
package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const property = "linux.intelRdt"

// Group is where a container is in resctrl: enough to join more processes, and
// to remove what was made for it.
type Group struct {
	Dir string `json:"dir"` // of the class of service
	// Made says that Dir was made for the container, and is removed with it.
	Made    bool   `json:"made,omitempty"`
	Monitor string `json:"monitor,omitempty"` // directory of its monitoring group
}

// tree is a mounted resctrl.
type tree struct {
	root  string
	mkdir func(dir string) error // the kernel fills new directories
}

// Create makes, or finds, the groups that the spec asks for. What it returns
// with an error was made, and is to be removed.
func Create(r *specs.LinuxIntelRdt, id string) (*Group, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "resctrl" || m.Root != "/", false
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", property, err)
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("%s: no resctrl file system is mounted on this host: %w", property, errdefs.ErrFailedPrecondition)
	}
	t := tree{root: mounts[0].Mountpoint, mkdir: mkdir}
	return t.create(r, id)
}

func mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

func (t tree) create(r *specs.LinuxIntelRdt, id string) (*Group, error) {
	g, existed, err := t.class(r, id)
	if err != nil {
		return nil, err
	}
	// Whether the class is removed with the container, it is now if this fails.
	undo := &Group{Dir: g.Dir, Made: !existed}
	if err := t.write(g, r, existed); err != nil {
		return undo, err
	}
	if r.EnableMonitoring {
		dir := filepath.Join(g.Dir, "mon_groups", id)
		if err := t.mkdir(dir); err != nil {
			return undo, t.explain("enableMonitoring", err)
		}
		g.Monitor = dir
	}
	return g, nil
}

// class is the class of service: one that is there, or a new one.
func (t tree) class(r *specs.LinuxIntelRdt, id string) (g *Group, existed bool, err error) {
	name := r.ClosID
	switch name {
	case "/":
		return &Group{Dir: t.root}, true, nil
	case "":
		name = id
	}
	g = &Group{Dir: filepath.Join(t.root, name), Made: r.ClosID == ""}
	_, err = os.Stat(g.Dir)
	existed = err == nil
	switch {
	case existed && r.ClosID == "":
		return nil, false, fmt.Errorf("%s: %s: is another's: %w", property, g.Dir, errdefs.ErrFailedPrecondition)
	case existed:
		return g, true, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, fmt.Errorf("%s.closID: %w", property, err)
	case r.ClosID != "" && len(schemata(r)) == 0:
		return nil, false, fmt.Errorf("%s.closID: %q: no such class, and no schemata to make one: %w", property, r.ClosID, errdefs.ErrFailedPrecondition)
	}
	if err := t.mkdir(g.Dir); err != nil {
		return nil, false, t.explain("closID", err)
	}
	return g, false, nil
}

// line of schemata, by its property.
type line struct{ property, text string }

// schemata are in the order in which they are written.
func schemata(r *specs.LinuxIntelRdt) []line {
	lines := sharedSchemata(r)
	for i, s := range r.Schemata {
		lines = append(lines, line{fmt.Sprintf("schemata[%d]", i), s})
	}
	return lines
}

// sharedSchemata are those that a class that exists has to have already.
func sharedSchemata(r *specs.LinuxIntelRdt) (lines []line) {
	if r.L3CacheSchema != "" {
		lines = append(lines, line{"l3CacheSchema", r.L3CacheSchema})
	}
	if r.MemBwSchema != "" {
		lines = append(lines, line{"memBwSchema", r.MemBwSchema})
	}
	return lines
}

func (t tree) write(g *Group, r *specs.LinuxIntelRdt, existed bool) error {
	lines := schemata(r)
	if existed {
		shared := sharedSchemata(r)
		if err := t.compare(g, shared); err != nil {
			return err
		}
		lines = lines[len(shared):]
	}
	for _, l := range lines {
		if err := write(filepath.Join(g.Dir, "schemata"), l.text+"\n"); err != nil {
			return t.explain(l.property, fmt.Errorf("%q: %w", l.text, err))
		}
	}
	return nil
}

func (t tree) compare(g *Group, lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	file := filepath.Join(g.Dir, "schemata")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", property, err)
	}
	has := map[string]map[string]string{}
	for l := range strings.Lines(string(text)) {
		name, values := parse(l)
		has[name] = values
	}
	for _, l := range lines {
		name, values := parse(l.text)
		for domain, value := range values {
			if has[name][domain] != value {
				return fmt.Errorf("%s.%s: %q: the class exists, and has other schemata: %q: %w",
					property, l.property, l.text, strings.TrimSpace(string(text)), errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

// parse splits "L3:0=7f0;1=1f"; numbers lose the zeros before them.
func parse(text string) (name string, values map[string]string) {
	name, list, _ := strings.Cut(strings.TrimSpace(text), ":")
	values = map[string]string{}
	for pair := range strings.SplitSeq(list, ";") {
		domain, value, _ := strings.Cut(pair, "=")
		values[number(domain)] = number(strings.ToLower(value))
	}
	return strings.TrimSpace(name), values
}

func number(s string) string {
	s = strings.TrimSpace(s)
	if short := strings.TrimLeft(s, "0"); short != "" {
		return short
	}
	return s[:min(len(s), 1)]
}

// explain adds what the kernel says about the last command.
func (t tree) explain(field string, err error) error {
	status, readErr := os.ReadFile(filepath.Join(t.root, "info", "last_cmd_status"))
	if text := strings.TrimSpace(string(status)); readErr == nil && text != "" && text != "ok" {
		err = fmt.Errorf("%w (%s)", err, text)
	}
	return fmt.Errorf("%s.%s: %w: %w", property, field, err, errdefs.ErrFailedPrecondition)
}

// Join puts a process into the group. Its children will be in it, too.
func (g *Group) Join(pid int) error {
	if g == nil {
		return nil
	}
	for _, dir := range []string{g.Dir, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := write(filepath.Join(dir, "tasks"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("%s: join: %w", property, err)
		}
	}
	return nil
}

// Remove removes what was made for the container; the kernel empties
// directories of resctrl itself. What is gone is no error.
func (g *Group) Remove() error { return g.remove(os.Remove) }

func (g *Group) remove(rmdir func(string) error) error {
	if g == nil {
		return nil
	}
	var errs []error
	if g.Monitor != "" {
		errs = append(errs, rmdir(g.Monitor))
	}
	if g.Made {
		errs = append(errs, rmdir(g.Dir))
	}
	for i, err := range errs {
		if errors.Is(err, fs.ErrNotExist) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// write writes a file that is there.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
