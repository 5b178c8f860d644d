package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Snapshot is the root file system that containerd has for a container: an
// overlay of the image's layers and a directory for what the container writes.
type Snapshot struct {
	layers  []string // the uppermost first
	upper   string
	options []string // of the overlay, without the directories
}

// Parse reads the mounts of a Create request. ErrNotImplemented for what is
// no overlay with a directory to write to.
func Parse(mounts []mount.Mount) (*Snapshot, error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		var types []string
		for _, m := range mounts {
			types = append(types, m.Type)
		}
		return nil, fmt.Errorf("the snapshot is no overlay with layers, but %q: %w", types, errdefs.ErrNotImplemented)
	}
	s := &Snapshot{}
	for _, option := range mounts[0].Options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir":
			if strings.Contains(value, `\`) || strings.Contains(value, "::") {
				return nil, fmt.Errorf("overlay: lowerdir=%s: data layers and escapes are not supported: %w", value, errdefs.ErrNotImplemented)
			}
			s.layers = strings.Split(value, ":")
		case "upperdir":
			s.upper = value
		case "workdir", "volatile", "ro", "rw": // of a writable one
		default:
			s.options = append(s.options, option)
		}
	}
	if len(s.layers) == 0 || s.upper == "" {
		return nil, fmt.Errorf("the snapshot is an overlay without lowerdir or upperdir: %w", errdefs.ErrNotImplemented)
	}
	return s, nil
}

// Written says whether something was written to the snapshot: then it is not
// the image any more.
func (s *Snapshot) Written() (bool, error) {
	dir, err := os.Open(s.upper)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// Key tells images apart: it is that of the same unpacked layers only.
//
// A path alone would not do, as a snapshotter that was set up anew begins with
// the same names. So a layer is the inode of its directory and the time at
// which that was made, which no other directory of a file system has. What is
// in it does not change any more once it is a layer; containerd itself relies
// on it.
func (s *Snapshot) Key() (string, error) {
	sum := sha256.New()
	for _, layer := range s.layers {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, layer, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_CTIME, &st); err != nil {
			return "", fmt.Errorf("layer %s: %w", layer, err)
		}
		made := st.Ctime // of a file system that does not know it, the last change
		if st.Mask&unix.STATX_BTIME != 0 {
			made = st.Btime
		}
		fmt.Fprintf(sum, "%q %d %d.%09d\n", layer, st.Ino, made.Sec, made.Nsec)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16]), nil
}

// ID names a snapshot for as long as it is there, across reboots.
type ID struct {
	Path  string `json:"path"` // of what the container writes
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born,omitempty"` // ns after 1970; 0 if the file system does not tell
}

// ID of the snapshot.
func (s *Snapshot) ID() (ID, error) { return idOf(s.upper) }

func idOf(path string) (ID, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return ID{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	id := ID{Path: path, Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// Layers of the image, the uppermost first.
func (s *Snapshot) Layers() []string { return slices.Clone(s.layers) }

// view is the image's tree alone, as a mount that nothing can be written to. An
// overlay needs two layers.
func (s *Snapshot) view() []mount.Mount {
	if len(s.layers) == 1 {
		return []mount.Mount{{Type: "bind", Source: s.layers[0], Options: []string{"ro", "rbind"}}}
	}
	options := append([]string{"ro", "lowerdir=" + strings.Join(s.layers, ":")}, s.options...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}
