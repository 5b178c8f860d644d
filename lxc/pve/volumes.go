package pve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
)

// Volumes are the CTs of this node whose root file system is a volume of one of
// Proxmox's storages, and the templates that they are clones of.
//
// What makes one ours is a record in Dir, beside what its configuration says:
// clones and restored backups have the same configuration.
type Volumes struct {
	Node   *Node
	Client *Client
	Dir    string // outlives a reboot
}

// Image is what a volume begins with.
type Image interface {
	// Key is the same for the same image only.
	Key() (string, error)
	// Stream writes the image as a tar stream that begins with files, and
	// says which directories of theirs are not the image's.
	Stream(ctx context.Context, w io.Writer, files []image.File) (added []string, err error)
}

// Held is the record of a container's volume.
type Held struct {
	Node      string   `json:"node"`
	VMID      int      `json:"vmid"`
	Namespace string   `json:"namespace"` // of containerd
	ID        string   `json:"id"`
	Snapshot  image.ID `json:"snapshot"` // the volume lives as long as that
	Template  string   `json:"template"` // name of what it was cloned of
	Token     string   `json:"token"`    // its host name while it is being made
	Made      bool     `json:"made"`     // complete: until then it is never used
	// Added are directories that the image has not, see Image. They go before
	// the first process runs.
	Added []string `json:"added,omitempty"`
}

func (v *Volumes) heldDir() string { return filepath.Join(v.Dir, "volumes") }

func (v *Volumes) heldPath(vmid int) string {
	return filepath.Join(v.heldDir(), strconv.Itoa(vmid)+".json")
}

// all returns the records of the containers' volumes. One that can not be
// read is in the error, beside the others.
func (v *Volumes) all() (held []Held, err error) {
	paths, err := records(v.heldDir())
	for _, path := range paths {
		var h Held
		if rerr := readRecord(path, &h); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		if h.VMID != 0 {
			held = append(held, h)
		}
	}
	return held, err
}

// Find returns the volume of the container that has this snapshot.
// ErrNotFound without one.
func (v *Volumes) Find(id image.ID) (*Held, error) {
	all, err := v.all()
	if err != nil {
		return nil, err // it may be the one that can not be read
	}
	for _, h := range all {
		if h.Snapshot == id && h.Node == v.Node.Name {
			return &h, nil
		}
	}
	return nil, fmt.Errorf("volume of snapshot %s: %w", id.Path, errdefs.ErrNotFound)
}

// records lists the files of a directory that are records; none without it.
func records(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, err
}

// readRecord leaves r as it is if there is none.
func readRecord(path string, r any) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeRecord is atomic, and lasts.
func writeRecord(path string, r any) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	f, err := atomicfile.New(path, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}

func removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// guard is the lock of a record: who holds it makes, uses or removes what the
// record is of. The processes of pct inherit it, so that it is held until the
// last of them has ended, even if the shim is killed.
type guard struct{ f *os.File }

// guard waits for the lock of the record at path, how being LOCK_EX or LOCK_SH.
func (v *Volumes) guard(ctx context.Context, path string, how int) (*guard, error) {
	for {
		f, err := openGuard(path)
		if err != nil {
			return nil, err
		}
		if err := flockUntil(ctx, f, how); err != nil {
			return nil, fmt.Errorf("%s: locked by another process: %w", path, err)
		}
		if g, err := current(f); g != nil || err != nil {
			return g, err
		}
	}
}

// tryGuard does not wait: nil if somebody has it.
func (v *Volumes) tryGuard(path string) (*guard, error) {
	for {
		f, err := openGuard(path)
		if err != nil {
			return nil, err
		}
		if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = nil
			}
			return nil, errors.Join(err, f.Close())
		}
		if g, err := current(f); g != nil || err != nil {
			return g, err
		}
	}
}

const guardSuffix = ".lock"

func openGuard(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path+guardSuffix, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
}

// current closes f, and returns nil, if it was removed before it was locked.
func current(f *os.File) (*guard, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Nlink == 0 {
		return nil, f.Close()
	}
	return &guard{f}, nil
}

func (g *guard) release() { _ = g.f.Close() } // unlocks

// drop removes the lock, after its record was removed.
func (g *guard) drop() error {
	err := os.Remove(g.f.Name())
	g.release()
	return err
}

// Save writes the record of a volume that is in use.
func (v *Volumes) Save(h *Held) error { return writeRecord(v.heldPath(h.VMID), h) }
