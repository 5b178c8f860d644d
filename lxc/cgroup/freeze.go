package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// freezeTimeout bounds the wait for a process that cannot be frozen, as one
// that waits for a dead NFS server.
const freezeTimeout = 5 * time.Second

// Freeze stops every process of the group and below, and returns when all have
// stopped. If that fails, all run on.
func (g *Group) Freeze(ctx context.Context) error {
	g.freezer.Lock()
	defer g.freezer.Unlock()
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	return g.freeze(ctx)
}

// Thaw lets them run on.
func (g *Group) Thaw(context.Context) error {
	g.freezer.Lock()
	defer g.freezer.Unlock()
	return g.thaw()
}

// Frozen says whether every process of the group is stopped by Freeze, or by
// the freezing of a group above.
func (g *Group) Frozen() (bool, error) {
	dir, err := g.dir("freezer")
	if err != nil {
		return false, err
	}
	if g.unified {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return isFrozen(string(text)), err
	}
	state, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
	return strings.TrimSpace(string(state)) == "FROZEN", err
}

// freeze needs g.freezer.
func (g *Group) freeze(ctx context.Context) error {
	dir, err := g.dir("freezer")
	if err != nil {
		return err
	}
	wait := freezeV1
	if g.unified {
		wait = freezeV2
	}
	if err := wait(ctx, dir); err != nil {
		if isGone(err) {
			return fmt.Errorf("freeze %s: %w: %w", dir, err, errdefs.ErrNotFound)
		}
		return errors.Join(fmt.Errorf("freeze %s: %w", dir, err), g.thaw())
	}
	return nil
}

// freezeV1 asks again and again: cgroup v1 notifies nobody of the state, and
// only reading it makes the kernel look whether all have stopped. It is
// written again each time, because a process that was just being forked, or
// that just came into the group, can hold it up in FREEZING.
func freezeV1(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "freezer.state")
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, 2*time.Millisecond) {
		if err := write(file, "FROZEN"); err != nil {
			return err
		}
		state, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(state)) == "FROZEN" {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func freezeV2(ctx context.Context, dir string) error {
	events, err := watchFile(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.close()
	if err := write(filepath.Join(dir, "cgroup.freeze"), "1"); err != nil {
		return err
	}
	return events.until(ctx, isFrozen)
}

func isFrozen(events string) bool { return strings.Contains(events, "frozen 1") }

// thaw needs g.freezer. The kernel wakes everybody within the write; there is
// nothing to wait for, and nothing to be had while a group above is frozen.
func (g *Group) thaw() error {
	dir, err := g.dir("freezer")
	if err != nil {
		return err
	}
	file, value := "freezer.state", "THAWED"
	if g.unified {
		file, value = "cgroup.freeze", "0"
	}
	if err := write(filepath.Join(dir, file), value); err != nil {
		if isGone(err) {
			return fmt.Errorf("thaw %s: %w: %w", dir, err, errdefs.ErrNotFound)
		}
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}
