package pmxcfs

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// entry is what a directory holds: *dir, *file, *link or *generated.
type entry interface{ fs.InodeEmbedder }

// dir is a directory. Its fields, and those of what is in it, are guarded by
// FS.mu.
type dir struct {
	fs.Inode
	fs      *FS
	path    string // "" for the root, "/nodes" …
	entries map[string]entry
	changed time.Time
}

func newDir(f *FS, path string) *dir {
	return &dir{fs: f, path: path, entries: map[string]entry{}, changed: time.Now()}
}

// file is a regular file.
type file struct {
	fs.Inode
	fs      *FS
	path    string
	data    []byte
	version uint64
	changed time.Time
}

// link is one of the file system's own symbolic links.
type link struct {
	fs.Inode
	target string
}

// generated is a file made when it is read.
type generated struct {
	fs.Inode
	make func() []byte
}

var (
	_ fs.NodeLookuper   = (*dir)(nil)
	_ fs.NodeReaddirer  = (*dir)(nil)
	_ fs.NodeCreater    = (*dir)(nil)
	_ fs.NodeMkdirer    = (*dir)(nil)
	_ fs.NodeUnlinker   = (*dir)(nil)
	_ fs.NodeRmdirer    = (*dir)(nil)
	_ fs.NodeRenamer    = (*dir)(nil)
	_ fs.NodeLinker     = (*dir)(nil)
	_ fs.NodeSymlinker  = (*dir)(nil)
	_ fs.NodeGetattrer  = (*dir)(nil)
	_ fs.NodeSetattrer  = (*dir)(nil)
	_ fs.NodeGetattrer  = (*file)(nil)
	_ fs.NodeSetattrer  = (*file)(nil)
	_ fs.NodeOpener     = (*file)(nil)
	_ fs.NodeReader     = (*file)(nil)
	_ fs.NodeWriter     = (*file)(nil)
	_ fs.NodeFsyncer    = (*file)(nil)
	_ fs.NodeFlusher    = (*file)(nil)
	_ fs.NodeReadlinker = (*link)(nil)
	_ fs.NodeOpener     = (*generated)(nil)
	_ fs.NodeReader     = (*generated)(nil)
	_ fs.NodeGetattrer  = (*generated)(nil)
)

// inode returns the kernel's node of an entry: the same every time.
func (d *dir) inode(ctx context.Context, e entry) *fs.Inode {
	typ := uint32(unix.S_IFREG)
	switch e.(type) {
	case *dir:
		typ = unix.S_IFDIR
	case *link:
		typ = unix.S_IFLNK
	}
	return d.NewPersistentInode(ctx, e, fs.StableAttr{Mode: typ})
}

func fill(e entry, out *fuse.Attr) {
	switch e := e.(type) {
	case *dir:
		attr(out, e.path, true, 0, e.changed)
	case *file:
		attr(out, e.path, false, len(e.data), e.changed)
	case *generated:
		attr(out, "", false, len(e.make()), time.Now())
		out.Mode = unix.S_IFREG | 0o440
	case *link:
		out.Mode = unix.S_IFLNK | 0o755
		out.Size = uint64(len(e.target))
	}
}

func (d *dir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	e, ok := d.entries[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	fill(e, &out.Attr)
	return d.inode(ctx, e), 0
}

func (d *dir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	var list []fuse.DirEntry
	for name, e := range d.entries {
		var a fuse.Attr
		fill(e, &a)
		list = append(list, fuse.DirEntry{Name: name, Mode: a.Mode})
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return fs.NewListDirStream(list), 0
}

func (d *dir) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	path := d.path + "/" + name
	if errno := d.fs.fault("create", path); errno != 0 {
		return nil, nil, 0, errno
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if errno := d.fs.mayChange(); errno != 0 {
		return nil, nil, 0, errno
	}
	if e, ok := d.entries[name]; ok { // someone was faster
		f, isFile := e.(*file)
		if !isFile || flags&unix.O_EXCL != 0 {
			return nil, nil, 0, syscall.EEXIST
		}
		fill(f, &out.Attr)
		return d.inode(ctx, f), nil, fuse.FOPEN_DIRECT_IO, 0
	}
	if d.fs.taken(path, "") {
		return nil, nil, 0, syscall.EEXIST
	}
	f := &file{fs: d.fs, path: path, version: d.fs.changed(), changed: time.Now()}
	d.entries[name], d.changed = f, time.Now()
	fill(f, &out.Attr)
	return d.inode(ctx, f), nil, fuse.FOPEN_DIRECT_IO, 0
}

func (d *dir) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if errno := d.fs.mayChange(); errno != 0 {
		return nil, errno
	}
	if _, ok := d.entries[name]; ok {
		return nil, syscall.EEXIST
	}
	sub := newDir(d.fs, d.path+"/"+name)
	d.entries[name], d.changed = sub, time.Now()
	d.fs.changed()
	fill(sub, &out.Attr)
	return d.inode(ctx, sub), 0
}

func (d *dir) Unlink(_ context.Context, name string) syscall.Errno {
	if errno := d.fs.fault("unlink", d.path+"/"+name); errno != 0 {
		return errno
	}
	return d.remove(name, false)
}

func (d *dir) Rmdir(_ context.Context, name string) syscall.Errno {
	return d.remove(name, true)
}

func (d *dir) remove(name string, wantDir bool) syscall.Errno {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if errno := d.fs.mayChange(); errno != 0 {
		return errno
	}
	switch e := d.entries[name].(type) {
	case nil:
		return syscall.ENOENT
	case *dir:
		if !wantDir {
			return syscall.EISDIR
		}
		if len(e.entries) > 0 {
			return syscall.ENOTEMPTY
		}
	case *file:
		if wantDir {
			return syscall.ENOTDIR
		}
	default:
		return syscall.EPERM
	}
	delete(d.entries, name)
	d.changed = time.Now()
	d.fs.changed()
	return 0
}

func (d *dir) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := d.fs.fault("rename", d.path+"/"+name); errno != 0 {
		return errno
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	target, ok := to.(*dir)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	if errno := d.fs.mayChange(); errno != 0 {
		return errno
	}
	f, ok := d.entries[name].(*file)
	if !ok {
		return syscall.EPERM // pmxcfs renames directories too, but nobody does
	}
	path := target.path + "/" + newName
	if _, isDir := target.entries[newName].(*dir); isDir {
		return syscall.EISDIR
	}
	if d.fs.taken(path, f.path) {
		return syscall.EEXIST
	}
	delete(d.entries, name)
	f.path, f.version = path, d.fs.changed()
	target.entries[newName] = f
	d.changed, target.changed = time.Now(), time.Now()
	return 0
}

func (d *dir) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (d *dir) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (d *dir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	fill(d, &out.Attr)
	return 0
}

func (d *dir) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if errno := fixed(d.path, true, in); errno != 0 {
		return errno
	}
	fill(d, &out.Attr)
	return 0
}

// fixed refuses what pmxcfs refuses: other modes and owners than its own.
func fixed(path string, isDir bool, in *fuse.SetAttrIn) syscall.Errno {
	if m, ok := in.GetMode(); ok && m&0o7777 != mode(path, isDir) {
		return syscall.EPERM
	}
	if uid, ok := in.GetUID(); ok && uid != 0 {
		return syscall.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != wwwData {
		return syscall.EPERM
	}
	return 0
}

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	fill(f, &out.Attr)
	return 0
}

func (f *file) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if errno := fixed(f.path, false, in); errno != 0 {
		return errno
	}
	if size, ok := in.GetSize(); ok {
		if errno := f.resize(int(size)); errno != 0 {
			return errno
		}
	}
	if at, ok := in.GetMTime(); ok {
		f.changed = at
	}
	fill(f, &out.Attr)
	return 0
}

func (f *file) resize(size int) syscall.Errno {
	if errno := f.fs.mayChange(); errno != 0 {
		return errno
	}
	if size > maxFile {
		return syscall.EFBIG
	}
	grown := make([]byte, size)
	copy(grown, f.data)
	f.data, f.version, f.changed = grown, f.fs.changed(), time.Now()
	return 0
}

func (f *file) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return fuse.ReadResultData(slice(f.data, len(dest), off)), 0
}

func slice(data []byte, n int, off int64) []byte {
	if off >= int64(len(data)) {
		return nil
	}
	return slices.Clone(data[off:min(int64(len(data)), off+int64(n))])
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if errno := f.fs.fault("write", f.path); errno != 0 {
		return 0, errno
	}
	if end := int(off) + len(data); end > len(f.data) {
		if errno := f.resize(end); errno != 0 {
			return 0, errno
		}
	} else if errno := f.fs.mayChange(); errno != 0 {
		return 0, errno
	}
	copy(f.data[off:], data)
	f.version, f.changed = f.fs.changed(), time.Now()
	return uint32(len(data)), 0
}

func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return 0 }

func (f *file) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

func (l *link) Readlink(context.Context) ([]byte, syscall.Errno) { return []byte(l.target), 0 }

func (g *generated) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, syscall.EACCES
	}
	return &content{g.locked()}, fuse.FOPEN_DIRECT_IO, 0
}

// content is a generated file as it was when it was opened.
type content struct{ data []byte }

func (g *generated) Read(_ context.Context, h fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData(slice(h.(*content).data, len(dest), off)), 0
}

func (g *generated) locked() []byte {
	root := g.Root().Operations().(*dir)
	root.fs.mu.Lock()
	defer root.fs.mu.Unlock()
	return g.make()
}

func (g *generated) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	size := len(g.locked())
	attr(&out.Attr, "", false, size, time.Now())
	out.Mode = unix.S_IFREG | 0o440
	return 0
}
