package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// distributed is the version of containerd that a distribution has.
var distributed = map[string]string{"bookworm": "1.6", "trixie": "1.7"}

// toolDirs are where the tests look for containerd's programs, below bin.
var toolDirs = map[string]string{"1.7": "tools/1.7", "1.6": "tools/1.6/usr/bin"}

// stage lays out what the guest gets on its second disk: the build, this
// program, compiled tests and their data, containerd 2.4, and links to the distribution's own containerd in
// the place of those that `make tools` provides.
func stage(bin, distribution string) (_ string, err error) {
	dir, err := os.MkdirTemp("", "nxvm-share-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, pattern := range []string{"*", "tools/*"} {
		found, err := filepath.Glob(filepath.Join(bin, pattern))
		if err != nil {
			return "", err
		}
		for _, f := range found {
			if filepath.Ext(f) == ".log" {
				continue // of a test before
			}
			if err := link(f, filepath.Join(dir, f[len(bin):])); err != nil {
				return "", err
			}
		}
	}
	if err := link(executable(), filepath.Join(dir, "vm")); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err := stageData(filepath.Dir(bin), dir); err != nil {
		return "", err
	}
	return dir, systemTools(dir, distribution)
}

// workDir is where tests run: their package's directory, as to testdata.
const workDir = "integration"

// stageData lays out the testdata of the modules' packages as they have it.
func stageData(source, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, workDir), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"oci/testdata", "integration/testdata"} {
		err := filepath.WalkDir(filepath.Join(source, name), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
				return nil
			}
			if err != nil {
				return err
			}
			return link(path, filepath.Join(dir, path[len(source):]))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// link puts a regular file into the tree; directories are not followed.
func link(from, to string) error {
	info, err := os.Stat(from)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Link(from, to); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}

func systemTools(dir, distribution string) error {
	for version, sub := range toolDirs {
		at := filepath.Join(dir, sub)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if distributed[distribution] != version {
			why := fmt.Sprintf("%s has containerd %s, not %s\n", distribution, distributed[distribution], version)
			if err := os.WriteFile(filepath.Join(dir, "tools", version, "absent"), []byte(why), 0o644); err != nil {
				return err
			}
			continue
		}
		for _, tool := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
			if err := os.Symlink("/usr/bin/"+tool, filepath.Join(at, tool)); err != nil {
				return err
			}
		}
	}
	return nil
}
