package pve

import (
	"context"
	"encoding/json"
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
)

// Range of VMIDs, both ends included.
type Range struct{ Min, Max int }

// The VMIDs that Proxmox allows.
const (
	MinVMID = 100
	MaxVMID = 999999999
)

// lockTimeout is how long Proxmox's tools wait for the lock of a configuration.
const lockTimeout = 10 * time.Second

// reserve makes the configuration of a new CT under a VMID that is free in the
// whole cluster: fixed, or the next one of the range if that is 0. conf makes the content for a
// VMID. Proxmox's lock of the configuration is held when it returns: nobody
// takes the CT for a leftover before it is on record.
//
// ErrAlreadyExists if the fixed VMID is in use, ErrResourceExhausted if the
// range is, ErrUnavailable without quorum.
func (n *Node) reserve(ctx context.Context, fixed int, r Range, conf func(vmid int) ([]byte, error)) (int, *lock, error) {
	if fixed != 0 {
		ctx, cancel := context.WithTimeout(ctx, lockTimeout)
		defer cancel()
		l, err := n.lock(ctx, fixed)
		if err != nil {
			return 0, nil, err
		}
		err = n.claim(l, fixed, conf)
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			err = fmt.Errorf("VMID %d is in use: %w", fixed, err)
		}
		return fixed, l, err
	}
	c, err := n.counter()
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	used, err := n.used()
	if err != nil {
		return 0, nil, err
	}
	for id := range r.from(c.last() + 1) {
		if used[id] || n.hasLeftovers(id) {
			continue
		}
		l, err := n.tryLock(id)
		if err != nil {
			return 0, nil, err
		}
		if l == nil {
			continue // somebody makes a CT of this VMID just now
		}
		err = n.claim(l, id, conf)
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			continue // another node was faster
		}
		if err == nil {
			err = c.set(id)
		}
		return id, l, err
	}
	return 0, nil, fmt.Errorf("no VMID is free from %d to %d: %w", r.Min, r.Max, errdefs.ErrResourceExhausted)
}

// from yields every VMID of the range once, beginning with first.
func (r Range) from(first int) func(yield func(int) bool) {
	if first < r.Min || first > r.Max {
		first = r.Min
	}
	return func(yield func(int) bool) {
		for i := range r.Max - r.Min + 1 {
			id := first + i
			if id > r.Max {
				id -= r.Max - r.Min + 1
			}
			if !yield(id) {
				return
			}
		}
	}
}

// claim creates the configuration, exclusively in the whole cluster. If it
// fails it releases the lock.
func (n *Node) claim(l *lock, vmid int, conf func(int) ([]byte, error)) (retErr error) {
	defer func() {
		if retErr != nil {
			l.release()
		}
	}()
	text, err := conf(vmid)
	if err != nil {
		return err
	}
	if err := n.announce(vmid); err != nil {
		return err
	}
	path := n.confPath(vmid)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return errors.Join(fmt.Errorf("reserve VMID %d: %w", vmid, clusterError(err)), n.settle(vmid))
	}
	_, err = f.Write(text) // one write: each is a message to the cluster
	if err = errors.Join(err, f.Close()); err == nil {
		return n.settle(vmid)
	}
	if rerr := os.Remove(path); rerr != nil {
		err = errors.Join(err, rerr) // gc removes it
	} else {
		err = errors.Join(err, n.settle(vmid))
	}
	return fmt.Errorf("write the configuration of CT %d: %w", vmid, clusterError(err))
}

// used are the VMIDs of the cluster, of containers and machines.
func (n *Node) used() (map[int]bool, error) {
	text, err := os.ReadFile(filepath.Join(n.Etc, ".vmlist"))
	if err != nil {
		return nil, clusterError(err)
	}
	var list struct {
		IDs map[string]json.RawMessage `json:"ids"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s/.vmlist: %w", n.Etc, err)
	}
	used := make(map[int]bool, len(list.IDs))
	for id := range list.IDs {
		if vmid, err := strconv.Atoi(id); err == nil {
			used[vmid] = true
		}
	}
	return used, nil
}

// hasLeftovers says whether a former owner of the VMID has left something: it
// would get into the new one's way.
func (n *Node) hasLeftovers(vmid int) bool {
	for _, path := range []string{filepath.Join(n.LXC, strconv.Itoa(vmid)), filepath.Join(n.Etc, "firewall", strconv.Itoa(vmid)+".fw")} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// counter is the VMID that this node gave last, in a locked file. Going on from
// there leaves a VMID alone for a while after its end: statistics and tasks in the UI are by
// VMID.
type counter struct{ *os.File }

func (n *Node) counter() (*counter, error) {
	if err := os.MkdirAll(n.Keep, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(n.Keep, "last-vmid"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &counter{f}, nil
}

// last is 0 without one.
func (c *counter) last() int {
	b := make([]byte, 16)
	n, _ := c.ReadAt(b, 0) // io.EOF always
	id, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return id
}

func (c *counter) set(id int) error {
	_, err := c.WriteAt(fmt.Appendf(nil, "%-15d\n", id), 0)
	return err
}
