package pve

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// A configuration is empty between its creation and its only write: should the shim be
// killed just then, or the cluster lose its quorum, nothing in it says that it is
// ours. So that is on record, in a file named after the VMID, for as long.

func (n *Node) unwritten() string { return filepath.Join(n.Keep, ".unwritten") }

func (n *Node) announcement(vmid int) string {
	return filepath.Join(n.unwritten(), strconv.Itoa(vmid))
}

// announce records that a configuration is about to be made.
func (n *Node) announce(vmid int) error {
	if err := os.MkdirAll(n.unwritten(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(n.announcement(vmid), nil, 0o600)
}

// settle forgets it: the configuration is whole, or is not there.
func (n *Node) settle(vmid int) error { return removeIfThere(n.announcement(vmid)) }

// collectUnwritten removes configurations that have stayed empty.
func (n *Node) collectUnwritten(ctx context.Context) error {
	entries, err := os.ReadDir(n.unwritten())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if vmid, err := strconv.Atoi(e.Name()); err == nil { // only announce makes them
			errs = append(errs, n.collectEmpty(ctx, vmid))
		}
	}
	return errors.Join(append(errs, err)...)
}

// collectEmpty needs the lock: whoever holds it may be about to write.
func (n *Node) collectEmpty(ctx context.Context, vmid int) error {
	l, err := n.lock(ctx, vmid)
	if err != nil {
		return err
	}
	defer l.release()
	text, err := os.ReadFile(n.confPath(vmid))
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(text) > 0: // or it is somebody's
	case err != nil:
		return clusterError(err)
	default:
		if err := n.removeConf(vmid); err != nil {
			return err
		}
	}
	return n.settle(vmid)
}
