package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
)

// startTimeout bounds pct start: storage may have to be activated.
const startTimeout = 3 * time.Minute

// Instance is a CT that is being started, or runs.
type Instance struct {
	node    *Node
	vmid    int
	figures *os.File      // locked until Ended
	started chan struct{} // closed when pct has ended
	done    chan struct{} // closed when lxc-start has ended, or never began

	mu      sync.Mutex // guards what follows
	monitor int        // pid of lxc-start
	err     error      // of the start
	once    sync.Once  // for done
}

// Start starts the CT that Reserve has made. It does not wait for pct.
func (n *Node) Start(ctx context.Context, client *Client, vmid int, c *Config) (*Instance, error) {
	if err := c.writeInclude(n, vmid); err != nil {
		return nil, err
	}
	figures, err := os.OpenFile(c.figures(), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(figures, unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, figures.Close())
	}
	i := &Instance{node: n, vmid: vmid, figures: figures, started: make(chan struct{}), done: make(chan struct{})}
	go i.run(context.WithoutCancel(ctx), client)
	return i, nil
}

func (i *Instance) run(ctx context.Context, client *Client) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := client.Start(ctx, i.vmid)
	i.mu.Lock()
	known := i.monitor != 0
	i.err = err
	i.mu.Unlock()
	defer close(i.started)
	if known {
		return
	}
	if err == nil {
		if err = i.find(); err == nil {
			return
		}
	}
	i.fail(err)
}

// find looks for lxc-start of a CT that pct has started, and whose helper has
// not connected yet.
func (i *Instance) find() error {
	pid, err := i.node.monitor(i.vmid)
	if err == nil {
		err = i.watch(pid)
	}
	if err != nil {
		return fmt.Errorf("CT %d ended at once: %s: %w", i.vmid, i.node.startLog(i.vmid), err)
	}
	return nil
}

func (i *Instance) fail(err error) {
	i.mu.Lock()
	if i.err == nil {
		i.err = err
	}
	i.mu.Unlock()
	i.once.Do(func() { close(i.done) })
}

// watch closes done after the end of lxc-start.
func (i *Instance) watch(pid int) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.monitor != 0 {
		return nil
	}
	f, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	i.monitor = pid
	go func() {
		defer f.Close()
		// Nothing ends the wait but the end of the process.
		_ = pidfd.WaitGone(context.Background(), f)
		i.once.Do(func() { close(i.done) })
	}()
	return nil
}

// Adopt says which process the first one is: lxc-start is its parent.
func (i *Instance) Adopt(init int) error {
	pid, err := parent(init)
	if err != nil {
		return fmt.Errorf("parent of process %d, the first of CT %d: %w", init, i.vmid, err)
	}
	return i.watch(pid)
}

// Monitor is the pid of lxc-start, 0 while it is not known.
func (i *Instance) Monitor() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.monitor
}

// Ready waits for pct: Proxmox has done its own part of the start then.
func (i *Instance) Ready(ctx context.Context) error {
	select {
	case <-i.started:
	case <-ctx.Done():
		return fmt.Errorf("pct start %d still runs: %w", i.vmid, ctx.Err())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// Done is closed when lxc-start has ended, or could not begin.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Failure says why the CT could not be started.
func (i *Instance) Failure() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		return i.err
	}
	return fmt.Errorf("CT %d ended before the helper connected: %s: %w", i.vmid, i.node.startLog(i.vmid), errdefs.ErrFailedPrecondition)
}

// Ended lets LXC remove the control group, once its figures have been read.
func (i *Instance) Ended() { _ = i.figures.Close() }

// startLog is the end of what lxc-start has printed.
func (n *Node) startLog(vmid int) string {
	text, err := os.ReadFile(filepath.Join(n.Run, fmt.Sprintf("ct-%d.stderr", vmid)))
	if err != nil {
		return "LXC left no message"
	}
	if s := last(string(text), maxLines); s != "" {
		return s
	}
	return "LXC left no message"
}

// commandSocket is where lxc-start of a CT answers, in the abstract namespace
// (LXC's commands_utils.c).
func (n *Node) commandSocket(vmid int) string {
	return "@" + filepath.Join(n.LXC, strconv.Itoa(vmid), "command")
}
