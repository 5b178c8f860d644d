package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
)

// JoinFiles opens the files that a process writes "0" to in order to be in the
// group, all of them. It must have one thread only. The caller closes them.
//
// On v1 they are "tasks": a thread that moves itself does not wait, while one
// that writes to cgroup.procs first waits for a grace period of RCU, some
// 10 ms (cgroup_procs_write_start in the kernel). v2 has no such file; there
// see Dir and Warm.
func (g *Group) JoinFiles() ([]*os.File, error) {
	var files []*os.File
	for _, p := range g.places {
		name := "tasks"
		if p.v2 {
			name = "cgroup.procs"
		}
		if p.v2 != g.unified {
			continue // without controllers
		}
		f, err := os.OpenFile(filepath.Join(p.dir, g.inner, name), os.O_WRONLY, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, fmt.Errorf("join control group: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// Beside returns the group for a further process of the container that process
// pid is of. On v2 that is pid's own, which may be below g: an init process
// that gives controllers to groups of its own has left g, and nothing can be in
// g itself from then on (cgroup-v2.rst, "No Internal Process Constraint").
func (g *Group) Beside(pid int) (*Group, error) {
	if !g.unified {
		return g, nil
	}
	own, err := Of(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errdefs.ErrNotFound) {
		return g, nil // it has ended: joining its namespaces says so better
	}
	if err != nil {
		return nil, err
	}
	for _, p := range own.places {
		if p.v2 && strings.HasPrefix(p.dir, g.places[0].dir+"/") {
			return &Group{unified: true, places: []place{p}}, nil
		}
	}
	return g, nil // also if it has been moved elsewhere
}

// Dir opens the group's directory for CLONE_INTO_CGROUP (clone(2), Linux 5.7;
// syscall.SysProcAttr.CgroupFD): a process that starts in the group does not
// wait as one that joins it does. nil on cgroup v1, which does not have that.
func (g *Group) Dir() (*os.File, error) {
	if !g.unified {
		return nil, nil
	}
	dir := filepath.Join(g.places[0].dir, g.inner)
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// Warm makes the kernel ready for a process that will join a v2 group within
// some 10 ms: the first to do so waits for a grace period of RCU, which may as
// well pass while LXC starts. On v1 there is no wait (JoinFiles).
func Warm() error {
	h, err := thisHost()
	if err != nil || !h.unified() {
		return err
	}
	return h.warm()
}

// warm puts this process where it is: nothing happens but the wait.
func (h *host) warm() error {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return err
	}
	defer f.Close()
	places, err := h.groupOf(f)
	if err != nil || len(places) == 0 {
		return err
	}
	return write(filepath.Join(places[0].dir, "cgroup.procs"), strconv.Itoa(os.Getpid()))
}

// Pids returns the host's pids of the processes in the group and below it.
func (g *Group) Pids() ([]int, error) { return pidsBelow(g.anyDir()) }

// anyDir is the group in a hierarchy that every process is in.
func (g *Group) anyDir() string {
	for _, controller := range []string{"freezer", "pids", "devices"} {
		if dir, err := g.dir(controller); err == nil {
			return dir
		}
	}
	return g.places[0].dir
}

func pidsBelow(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return ignoreGone(err)
		}
		more, err := readPids(filepath.Join(path, "cgroup.procs"))
		pids = append(pids, more...)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // a threaded group: its processes are in one above
		}
		return ignoreGone(err)
	})
	return pids, err
}

func readPids(path string) ([]int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if pid != 0 { // of another pid namespace: nobody to be reached from here
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Kill sends a signal to every process of the group and below. SIGKILL leaves
// none, whatever they fork meanwhile; a frozen group is thawed, so that they
// die. It does not wait for their end. A group without processes, or that is
// gone, is no error.
func (g *Group) Kill(ctx context.Context, sig unix.Signal) error {
	g.freezer.Lock()
	defer g.freezer.Unlock()
	if g.unified && sig == unix.SIGKILL {
		err := write(filepath.Join(g.places[0].dir, "cgroup.kill"), "1") // Linux 5.14
		if err == nil || isGone(err) && !g.exists() {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("kill control group: %w", err)
		}
	}
	err := g.killFrozen(ctx, sig)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}

// killFrozen signals while nobody can fork. Needs g.freezer.
func (g *Group) killFrozen(ctx context.Context, sig unix.Signal) error {
	was, err := g.Frozen()
	if err != nil && !isGone(err) && !errors.Is(err, errdefs.ErrNotImplemented) {
		return err
	}
	if !was {
		limited, cancel := context.WithTimeout(ctx, freezeTimeout)
		defer cancel()
		if err := g.freeze(limited); err != nil {
			// A process that cannot be frozen, or no freezer: the next best.
			return errors.Join(g.signalAll(ctx, sig), ctx.Err())
		}
	}
	err = g.signalAll(ctx, sig)
	if was && sig != unix.SIGKILL {
		return err // delivered when it is resumed
	}
	return errors.Join(err, g.thaw())
}

// signalAll signals every process once. With SIGKILL, those that have come
// meanwhile too, until there are no new ones.
func (g *Group) signalAll(ctx context.Context, sig unix.Signal) error {
	seen := map[int]bool{}
	for ctx.Err() == nil {
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		more := false
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			seen[pid], more = true, true
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("signal %d to process %d: %w", sig, pid, err)
			}
		}
		if !more || sig != unix.SIGKILL {
			return nil
		}
	}
	return ctx.Err()
}

// exists says whether the group is there.
func (g *Group) exists() bool {
	_, err := os.Stat(g.places[0].dir)
	return err == nil
}

// KillAndWait kills every process of the group and below, and waits until they
// are gone.
func (g *Group) KillAndWait(ctx context.Context) error {
	open, err := openPids(g.anyDir())
	defer closeAll(open)
	if err != nil {
		return err
	}
	if err := g.Kill(ctx, unix.SIGKILL); err != nil {
		return err
	}
	return g.awaitEmpty(ctx, open)
}

// awaitEmpty waits for the processes given, and for those forked meanwhile.
func (g *Group) awaitEmpty(ctx context.Context, open []*os.File) error {
	for len(open) > 0 {
		for _, f := range open {
			if err := waitDead(ctx, f); err != nil {
				return err
			}
		}
		more, err := openPids(g.anyDir())
		defer closeAll(more)
		if err != nil {
			return err
		}
		open = more
	}
	return nil
}

// openPids opens a pidfd for each process below a directory.
func openPids(dir string) ([]*os.File, error) {
	pids, err := pidsBelow(dir)
	if err != nil {
		return nil, err
	}
	var open []*os.File
	for _, pid := range pids {
		f, err := pidfd.Open(pid)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue
		}
		if err != nil {
			return open, err
		}
		open = append(open, f)
	}
	return open, nil
}

// waitDead waits for the end of a process, whether or not it is reaped: it is
// out of its groups then.
func waitDead(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := pidfd.WaitDead(f)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
