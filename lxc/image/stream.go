package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/tarheader"
	"github.com/containerd/continuity/sysx"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// File is one that the stream begins with, and that is not the image's.
type File struct {
	Path    string // relative
	Content []byte
}

// Mounted mounts the image at dir, read-only, for as long as f runs.
func (s *Snapshot) Mounted(dir string, f func() error) (err error) {
	defer func() { err = errors.Join(err, mount.UnmountRecursive(dir, 0)) }()
	if err := mount.All(s.view(), dir); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	return f()
}

// Added are the directories that files have, and the tree at root has not: who
// unpacks the stream has them too. ErrNotImplemented if there is something else
// at the place of one.
func Added(root string, files []File) ([]string, error) {
	var added []string
	for _, f := range files {
		for _, dir := range parents(f.Path) {
			st, err := os.Lstat(filepath.Join(root, dir))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				if !slices.Contains(added, dir) {
					added = append(added, dir)
				}
			case err != nil:
				return nil, err
			case !st.IsDir():
				return nil, fmt.Errorf("/%s of the image is no directory, and %s has to be below it for a while: %w", dir, f.Path, errdefs.ErrNotImplemented)
			}
		}
	}
	return added, nil
}

// parents of a relative path, the outermost first.
func parents(path string) (dirs []string) {
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

// Write writes the tree at root as a tar stream (PAX), with owners, modes,
// times, hard links, device nodes, and the extended attributes that tar of
// Proxmox takes: security.capability and user.*. Sockets are left out. The
// files come first: whoever keeps the first of a name keeps them.
//
// A stream whose Write failed has no end: who reads it may not notice.
func Write(ctx context.Context, w io.Writer, root string, files []File) error {
	out := &writer{ctx: ctx, tar: tar.NewWriter(w), root: root, links: map[inode]string{}, buffer: make([]byte, 1<<18)}
	if err := out.first(files); err != nil {
		return err
	}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := out.entry(rel); err != nil {
			return fmt.Errorf("/%s of the image: %w", rel, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.tar.Close()
}

// inode is a file, whatever its names.
type inode struct{ dev, ino uint64 }

type writer struct {
	ctx    context.Context
	tar    *tar.Writer
	root   string
	links  map[inode]string // the first name of files that have several
	buffer []byte
}

// first writes the files, with the image's own directories around them.
func (w *writer) first(files []File) error {
	for _, f := range files {
		for _, dir := range parents(f.Path) {
			err := w.entry(dir)
			if errors.Is(err, fs.ErrNotExist) {
				err = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatPAX})
			}
			if err != nil {
				return err
			}
		}
		if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: 0o600, Size: int64(len(f.Content)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := w.tar.Write(f.Content); err != nil {
			return err
		}
	}
	return nil
}

// entry writes the entry of one path, which is relative to the root.
func (w *writer) entry(rel string) error {
	path := filepath.Join(w.root, rel)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // of nobody who listens
	}
	h, err := header(path, info)
	if err != nil {
		return err
	}
	h.Name = rel
	if info.IsDir() {
		h.Name = rel + "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !info.IsDir() {
		file := inode{uint64(st.Dev), st.Ino}
		if first, ok := w.links[file]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
		} else {
			w.links[file] = rel
		}
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	return w.content(path)
}

func header(path string, info fs.FileInfo) (*tar.Header, error) {
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	// The names of users are the image's affair, its numbers count.
	h, err := tarheader.FileInfoHeaderNoLookups(info, link)
	if err != nil {
		return nil, err
	}
	h.Format = tar.FormatPAX
	return h, attributes(path, h)
}

// attributes adds the extended attributes, as GNU tar and others write them.
func attributes(path string, h *tar.Header) error {
	names, err := sysx.LListxattr(path)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value, err := sysx.LGetxattr(path, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
	}
	return nil
}

func (w *writer) content(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A plain Writer: with ReadFrom tar would not use the buffer.
	_, err = io.CopyBuffer(struct{ io.Writer }{w.tar}, f, w.buffer)
	return err
}
