package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
)

// Stats returns the figures of the group, as *cgroup1/stats.Metrics or
// *cgroup2/stats.Metrics, also after the end of its processes. Once Keep was
// called they are those that it took. ErrNotFound if the group is gone.
func (g *Group) Stats() (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last != nil {
		return g.last, nil
	}
	return g.figures()
}

// Keep takes the figures for later, for a group that will not outlive its
// processes because another made it.
func (g *Group) Keep() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, err := g.figures()
	if err == nil {
		g.last = last
	}
	return err
}

// figures needs g.mu.
func (g *Group) figures() (_ any, err error) {
	if !g.exists() {
		return nil, fmt.Errorf("control group %s: %w", g.places[0].dir, errdefs.ErrNotFound)
	}
	if g.stat == nil {
		if g.stat, err = g.reader(); err != nil {
			return nil, err
		}
	}
	return g.stat()
}

// reader looks the group's files up.
func (g *Group) reader() (func() (any, error), error) {
	if g.unified {
		p := g.places[0]
		m, err := cgroup2.Load(strings.TrimPrefix(p.dir, p.mount), cgroup2.WithMountpoint(p.mount))
		if err != nil {
			return nil, err
		}
		return func() (any, error) { return m.Stat() }, nil
	}
	cg, err := cgroup1.Load(g.pathV1, cgroup1.WithHierarchy(g.figuresV1))
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil, fmt.Errorf("control group: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return func() (any, error) {
		m, err := cg.Stat(cgroup1.IgnoreNotExist)
		if dir, derr := g.dir("memory"); err == nil && derr == nil && g.inner != "" {
			m.GetMemoryOomControl().OomKill, err = killsBelow(dir)
		}
		return m, err
	}, nil
}

// figuresV1 are the controllers that have figures. cgroup1's own hierarchy is
// found by parsing the host's mounts, which takes longer than reading them.
func (g *Group) figuresV1() ([]cgroup1.Subsystem, error) {
	root := filepath.Dir(g.places[0].mount)
	s := []cgroup1.Subsystem{
		cgroup1.NewPids(root), cgroup1.NewCpu(root), cgroup1.NewCpuacct(root), cgroup1.NewMemory(root), cgroup1.NewBlkio(root), cgroup1.NewRdma(root),
	}
	h, err := cgroup1.NewHugetlb(root)
	if errors.Is(err, fs.ErrNotExist) { // a kernel without huge pages
		return s, nil
	}
	return append(s, h), err
}

// pathV1 is the group's path in the hierarchy of a controller.
func (g *Group) pathV1(controller cgroup1.Name) (string, error) {
	for _, p := range g.places {
		if slices.Contains(p.names, string(controller)) || slices.Contains(p.names, "name="+string(controller)) {
			return strings.TrimPrefix(p.dir, p.mount), nil
		}
	}
	return "", cgroup1.ErrControllerNotActive
}

// keptKills is the count of OOM kills that Keep took.
func (g *Group) keptKills() (uint64, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch m := g.last.(type) {
	case *v1.Metrics:
		return m.GetMemoryOomControl().GetOomKill(), true
	case *v2.Metrics:
		return m.GetMemoryEvents().GetOomKill(), true
	default:
		return 0, false
	}
}
