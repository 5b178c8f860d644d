package crun

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"golang.org/x/sys/unix"
)

// remembered is an engine's answer, and the file that gave it: to ask takes
// some 5 ms, and every container has a shim of its own.
type remembered struct {
	Device, Inode uint64
	Size, Changed int64 // bytes, nanoseconds
	Name          string
	Version       version
	Parts         []string
}

// identity describes the file at path.
func identity(path string) (r remembered, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return r, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return remembered{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, Changed: st.Ctim.Nano()}, nil
}

func cacheFile(dir, path string) string {
	return filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "-")+".json")
}

// recall returns what is known of the engine at path; nil if that is nothing,
// or of another file.
func recall(dir, path string) *engine {
	now, err := identity(path)
	if err != nil {
		return nil
	}
	b, err := os.ReadFile(cacheFile(dir, path))
	if err != nil {
		return nil
	}
	var then remembered
	if err := json.Unmarshal(b, &then); err != nil {
		return nil
	}
	if !now.sameFile(then) || then.Name == "" {
		return nil
	}
	return &engine{path: path, name: then.Name, version: then.Version, parts: then.Parts}
}

func (r remembered) sameFile(o remembered) bool {
	return r.Device == o.Device && r.Inode == o.Inode && r.Size == o.Size && r.Changed == o.Changed
}

// remember keeps what the engine has answered.
func (e *engine) remember(dir string) error {
	r, err := identity(e.path)
	if err != nil {
		return err
	}
	r.Name, r.Version, r.Parts = e.name, e.version, e.parts
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := atomicfile.New(cacheFile(dir, e.path), 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}
