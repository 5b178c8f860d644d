package rootfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40  // as the kernel's own MAXSYMLINKS
	maxRaces = 128 // openat2 gives up when a rename interferes with ".."
)

// lookup opens what path leads to below root, symlinks included, as a process
// would that had root as its root directory. Magic links are refused (ELOOP).
// It needs Linux 5.6 (openat2(2)).
func lookup(root handle, path string, flags, resolve uint64) (handle, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(root), path, &how)
		switch {
		case err == nil:
			return handle(fd), nil
		case err == unix.EINTR, err == unix.EAGAIN && try < maxRaces: //nolint:errorlint // a bare errno
		default:
			return none, err
		}
	}
}

// what says how a missing path is created.
type what struct {
	file    bool   // the last component is an empty file, not a directory
	mode    uint32 // of that file
	noLinks bool   // no component may be a symlink
}

// ensure opens what path leads to below root, and creates what is missing:
// directories (0755), and for a file its last component. created tells
// whether there was anything to create. Dangling symlinks lead to where they
// point to, below root.
func ensure(root handle, path string, w what) (h handle, created bool, err error) {
	var resolve uint64
	if w.noLinks {
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	h, err = lookup(root, path, unix.O_PATH, resolve)
	if !errors.Is(err, unix.ENOENT) {
		return h, false, err
	}
	c := creation{what: w, root: root, todo: strings.Split(path, "/")}
	h, err = c.run()
	return h, true, err
}

// creation walks a path component by component, on descriptors only: the way
// back of ".." is the way that it came, so it can not leave the root however
// directories are moved meanwhile.
type creation struct {
	what
	root  handle
	dirs  []handle // from below the root to where the walk is
	todo  []string
	links int
}

// run returns the end of the walk, which is the caller's to close.
func (c *creation) run() (handle, error) {
	defer func() { c.up(len(c.dirs)) }()
	for len(c.todo) > 0 {
		name := c.todo[0]
		c.todo = c.todo[1:]
		if err := c.step(name); err != nil {
			return none, err
		}
	}
	if len(c.dirs) == 0 {
		return lookup(c.root, ".", unix.O_PATH, 0)
	}
	last := c.dirs[len(c.dirs)-1]
	c.dirs = c.dirs[:len(c.dirs)-1]
	return last, nil
}

func (c *creation) here() handle {
	if len(c.dirs) == 0 {
		return c.root
	}
	return c.dirs[len(c.dirs)-1]
}

// up goes back n directories, at most to the root.
func (c *creation) up(n int) {
	for ; n > 0 && len(c.dirs) > 0; n-- {
		c.here().close()
		c.dirs = c.dirs[:len(c.dirs)-1]
	}
}

func (c *creation) step(name string) error {
	switch name {
	case "", ".":
		return nil
	case "..":
		c.up(1)
		return nil
	}
	next, err := c.enter(name)
	if err != nil {
		return err
	}
	st, err := next.stat()
	if err != nil {
		next.close()
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		defer next.close()
		return c.follow(next)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR && !c.atEnd():
		next.close()
		return unix.ENOTDIR
	}
	c.dirs = append(c.dirs, next)
	return nil
}

// atEnd says that no component is left.
func (c *creation) atEnd() bool {
	for _, name := range c.todo {
		if name != "" && name != "." {
			return false
		}
	}
	return true
}

// enter opens one entry of the directory, and creates it if it is missing.
func (c *creation) enter(name string) (handle, error) {
	for range maxRaces {
		fd, err := unix.Openat(int(c.here()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return handle(fd), nil
		}
		if !errors.Is(err, unix.ENOENT) {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return none, err
		}
		if err := c.create(name); err != nil && !errors.Is(err, unix.EEXIST) {
			return none, err
		}
	}
	return none, fmt.Errorf("%q vanishes as soon as it is created: %w", name, unix.EAGAIN)
}

func (c *creation) create(name string) error {
	if c.file && c.atEnd() {
		// mknodat, as open would touch what a race puts there.
		return unix.Mknodat(int(c.here()), name, unix.S_IFREG|c.mode, 0)
	}
	return unix.Mkdirat(int(c.here()), name, 0o755)
}

// follow puts the target of a symlink in front of the rest of the way.
func (c *creation) follow(link handle) error {
	if c.links++; c.links > maxLinks || c.noLinks {
		return unix.ELOOP
	}
	// The links of procfs look like paths, but are not: none is followed.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(link), &fs); err != nil {
		return err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return unix.ELOOP
	}
	target, err := readlink(link, "")
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		c.up(len(c.dirs))
	}
	c.todo = append(strings.Split(target, "/"), c.todo...)
	return nil
}

func readlink(dir handle, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir), name, buf)
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}
