package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Payload is the name of the group below a scope of systemd's that the
// container is in: in the scope itself only systemd sets limits.
const Payload = "container"

// Adopt makes the group below a scope, whose path is as that of Create, and
// moves a process there that systemd has put into the scope. On v2 the
// controllers come then: not to a group that has processes of its own.
func Adopt(scope string, pid int) (*Group, error) {
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	return h.adopt(scope, pid)
}

func (h *host) adopt(scope string, pid int) (_ *Group, retErr error) {
	g := &Group{unified: h.unified(), scope: true}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, g.Remove())
		}
	}()
	if h.unified() {
		if _, err := os.Stat(filepath.Join(h.v2.mount, scope)); err != nil {
			return nil, fmt.Errorf("systemd's scope: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		p := place{*h.v2, filepath.Join(h.v2.mount, scope, Payload)}
		if err := os.Mkdir(p.dir, 0o755); err != nil {
			return nil, fmt.Errorf("create control group: %w", err)
		}
		g.places = []place{p}
	} else {
		for _, v := range h.used() {
			p := place{v, filepath.Join(v.mount, scope, Payload)}
			if err := p.create(); err != nil {
				return nil, fmt.Errorf("create control group: %w", err)
			}
			g.places = append(g.places, p)
		}
	}
	for _, p := range g.places {
		if err := write(filepath.Join(p.dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return nil, fmt.Errorf("join control group: %w", err)
		}
		if p.v2 {
			enableControllers(filepath.Dir(p.dir))
		}
	}
	return g, nil
}

// Above returns the directories of the scope that a group is below of.
func (g *Group) Above() (dirs []string) {
	for _, dir := range g.Dirs() {
		dirs = append(dirs, filepath.Dir(dir))
	}
	return dirs
}

// Unified says whether the group's controllers are those of cgroup v2.
func (g *Group) Unified() bool { return g.unified }

// Unified says whether this host's are.
func Unified() bool {
	h, err := thisHost()
	return err == nil && h.unified()
}

// shares are files whose values count against the neighbours of a group: a
// group alone in its scope has none, but the scope has.
var shares = []string{"cpu.weight", "cpu.shares", "cpu.idle", "io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight", "blkio.leaf_weight"}

func isShare(file string) bool {
	for _, s := range shares {
		if file == s || strings.TrimSuffix(file, "_device") == s {
			return true
		}
	}
	return false
}
