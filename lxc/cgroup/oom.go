package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Watcher reports the OOM kills in the groups of containers. It costs one
// goroutine, and a descriptor for each group.
type Watcher struct {
	notify func(id string)
	poller *poller

	mu   sync.Mutex // guards what follows
	byID map[string]*watch
	byFD map[int32]*watch
}

// watch is on the group of one container.
type watch struct {
	id    string
	group *Group
	dir   string
	// fd is an eventfd on v1, memory.events on v2. No os.File, whose Fd would
	// make it block.
	fd int
	// counter is the line of that file that counts.
	counter string

	// mu guards what follows, and is held for notify, so that none comes
	// after Remove.
	mu      sync.Mutex
	seen    uint64 // kills that were reported
	retry   *time.Timer
	removed bool
}

// NewOOMWatcher calls notify when processes of a container were killed for
// want of memory: once for a kill, or for several that are seen together.
// notify must not call the Watcher.
func NewOOMWatcher(notify func(id string)) (*Watcher, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	w := &Watcher{notify: notify, poller: p, byID: map[string]*watch{}, byFD: map[int32]*watch{}}
	go w.run()
	return w, nil
}

// Close ends the Watcher.
func (w *Watcher) Close() error {
	w.mu.Lock()
	ids := make([]string, 0, len(w.byID))
	for id := range w.byID {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	for _, id := range ids {
		w.Remove(id)
	}
	return w.poller.close()
}

// Add watches a container's group; kills before that are not reported.
// ErrNotImplemented if this host does not control memory.
func (w *Watcher) Add(id string, g *Group) error {
	dir, err := g.dir("memory")
	if err != nil {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	t := &watch{id: id, group: g, dir: dir, counter: oomKills}
	events := uint32(unix.EPOLLIN)
	if g.unified {
		t.fd, err = unix.Open(filepath.Join(dir, "memory.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		events = unix.EPOLLPRI | unix.EPOLLET // level-triggered, a removed file never ends
	} else {
		t.fd, err = oomEventfd(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("watch for OOM kills: %w: %w", err, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	if t.seen, err = t.kills(); err == nil {
		err = w.register(t, events)
	}
	if err != nil {
		_ = unix.Close(t.fd) // nothing was written
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	return nil
}

func (w *Watcher) register(t *watch, events uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byID[t.id] != nil {
		return fmt.Errorf("container %s: %w", t.id, errdefs.ErrAlreadyExists)
	}
	if err := w.poller.control(unix.EPOLL_CTL_ADD, t.fd, events, int32(t.fd)); err != nil {
		return err
	}
	w.byID[t.id], w.byFD[int32(t.fd)] = t, t
	return nil
}

// oomEventfd returns an eventfd that is told of each OOM (cgroup-v1/memory.rst,
// section 10).
func oomEventfd(dir string) (int, error) {
	control, err := os.Open(filepath.Join(dir, oomControl))
	if err != nil {
		return -1, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	if err := write(filepath.Join(dir, "cgroup.event_control"), fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// run hands out events until the Watcher is closed.
func (w *Watcher) run() {
	for {
		files, err := w.poller.wait()
		if err != nil {
			return // closed: epoll_wait on a good descriptor has no other error
		}
		for _, fd := range files {
			w.mu.Lock()
			t := w.byFD[fd]
			w.mu.Unlock()
			if t != nil {
				w.event(t)
			}
		}
	}
}

// Times after which v1's counter is looked at again, see event.
var retries = []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

// event looks at the counter. On v1 the kernel tells of an OOM before it kills
// and counts, and not again afterwards; it also tells every group below the
// one that is out of memory, and a group that is removed. So without a kill
// the counter is looked at a few more times.
func (w *Watcher) event(t *watch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.removed {
		return
	}
	if !t.group.unified {
		var count [8]byte
		if _, err := unix.Read(t.fd, count[:]); err != nil {
			return
		}
	}
	if !w.report(t) && !t.group.unified && t.retry == nil {
		w.later(t, retries)
	}
}

// later needs t.mu.
func (w *Watcher) later(t *watch, after []time.Duration) {
	t.retry = nil
	if len(after) == 0 {
		return
	}
	t.retry = time.AfterFunc(after[0], func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.retry = nil
		if !t.removed && !w.report(t) {
			w.later(t, after[1:])
		}
	})
}

// report notifies if there are new kills. Needs t.mu.
func (w *Watcher) report(t *watch) bool {
	n, kept := t.group.keptKills()
	if !kept {
		n, _ = t.kills() // of a group that is gone there is nothing to tell
	}
	if n <= t.seen {
		return false
	}
	t.seen = n
	w.notify(t.id)
	return true
}

// Flush reports, before it returns, what has happened until now. It is for the
// exit of a container: the kill that was its end comes before it.
func (w *Watcher) Flush(id string) {
	w.mu.Lock()
	t := w.byID[id]
	w.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.removed {
		w.report(t)
	}
}

// Remove ends the watch; nothing is reported after it has returned.
func (w *Watcher) Remove(id string) {
	w.mu.Lock()
	t := w.byID[id]
	if t != nil {
		delete(w.byID, id)
		delete(w.byFD, int32(t.fd))
		// Fails only if the Watcher is closed.
		_ = w.poller.control(unix.EPOLL_CTL_DEL, t.fd, 0, 0)
	}
	w.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removed = true
	if t.retry != nil {
		t.retry.Stop()
	}
	_ = unix.Close(t.fd) // nothing was written
}

// kills is the count of processes of the group and below it that were killed.
func (t *watch) kills() (uint64, error) {
	if t.group.unified {
		text := make([]byte, 4096)
		// Through the open file: that is what tells of the next change.
		n, err := unix.Pread(t.fd, text, 0)
		if err != nil {
			return 0, err
		}
		return count(text[:n], t.counter)
	}
	return killsBelow(t.dir)
}

// Files that count OOM kills have them in a line of their own.
const (
	oomControl = "memory.oom_control"
	oomKills   = "oom_kill"
)

func count(text []byte, counter string) (uint64, error) {
	return strconv.ParseUint(field(string(text), counter), 10, 64)
}

// field returns the value of one line of a flat keyed file, "" without it.
func field(text, key string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
