// Package storage is the stand-in's storages: /etc/pve/storage.cfg, volumes
// and their names as PVE::Storage has them.
//
// A dir storage has raw images with ext4 and, for size 0, directories. A
// zfspool storage has directories below its mountpoint; a linked clone of a
// template there is a copy: cheap for the tests' images, and its name and the
// refusals are ZFS's.
package storage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// Storage is one section of storage.cfg.
type Storage struct {
	Name string
	Type string // dir, zfspool
	Opts map[string]string
}

// Default is a storage.cfg with what the tests need.
func Default(pool string) string {
	return `dir: local
	path /var/lib/vz
	content iso,vztmpl,backup,images,rootdir,snippets

zfspool: local-zfs
	pool rpool/data
	mountpoint ` + pool + `
	content images,rootdir
	sparse 1

dir: isoonly
	path /var/lib/vz/isoonly
	content iso
`
}

var section = regexp.MustCompile(`^([a-z]+):\s+(\S+)\s*$`)

// Load reads storage.cfg.
func Load() (map[string]*Storage, error) {
	data, err := os.ReadFile(filepath.Join(host.EtcPVE, "storage.cfg"))
	if err != nil {
		return nil, err
	}
	all := map[string]*Storage{}
	var s *Storage
	for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
		if m := section.FindStringSubmatch(scan.Text()); m != nil {
			s = &Storage{Name: m[2], Type: m[1], Opts: map[string]string{}}
			all[s.Name] = s
		} else if key, value, ok := strings.Cut(strings.TrimSpace(scan.Text()), " "); ok && s != nil {
			s.Opts[key] = strings.TrimSpace(value)
		}
	}
	return all, nil
}

// Find returns a storage by name.
func Find(name string) (*Storage, error) {
	all, err := Load()
	if err != nil {
		return nil, err
	}
	s, ok := all[name]
	if !ok {
		return nil, host.Dief("storage '%s' does not exist", name)
	}
	return s, nil
}

// Has says whether the storage may hold that kind of content.
func (s *Storage) Has(content string) bool {
	return slices.Contains(strings.Split(s.Opts["content"], ","), content)
}

// Clones says whether a template on it can be cloned without a copy.
func (s *Storage) Clones() bool { return s.Type == "zfspool" }

// Snapshots says whether its volumes have snapshots.
func (s *Storage) Snapshots() bool { return s.Type == "zfspool" }

// Volume is a volume of a container.
type Volume struct {
	Storage *Storage
	Name    string // as after the colon
}

// ID is the volume's id.
func (v *Volume) ID() string { return v.Storage.Name + ":" + v.Name }

// Parse finds a volume by its id.
func Parse(id string) (*Volume, error) {
	name, vol, ok := strings.Cut(id, ":")
	if !ok {
		return nil, host.Dief("unable to parse volume ID '%s'", id)
	}
	s, err := Find(name)
	if err != nil {
		return nil, err
	}
	return &Volume{s, vol}, nil
}

// IsDir says whether the volume is a directory tree, not an image.
func (v *Volume) IsDir() bool { return !strings.HasSuffix(v.Name, ".raw") }

// Path of the volume on the node.
func (v *Volume) Path() (string, error) {
	switch {
	case v.Storage.Type == "zfspool":
		return filepath.Join(v.Storage.Opts["mountpoint"], filepath.Base(v.Name)), nil
	case strings.HasPrefix(v.Name, "vztmpl/"):
		return filepath.Join(v.Storage.Opts["path"], "template/cache", strings.TrimPrefix(v.Name, "vztmpl/")), nil
	case strings.HasPrefix(v.Name, "backup/"):
		return filepath.Join(v.Storage.Opts["path"], "dump", strings.TrimPrefix(v.Name, "backup/")), nil
	case strings.HasPrefix(v.Name, "snippets/"):
		return filepath.Join(v.Storage.Opts["path"], v.Name), nil
	case strings.Contains(v.Name, ".."):
		return "", host.Dief("unable to parse directory volume name '%s'", v.Name)
	}
	return filepath.Join(v.Storage.Opts["path"], "images", v.Name), nil
}

var owner = regexp.MustCompile(`(?:vm|base|subvol|basevol)-(\d+)-disk-\d+`)

// Owner is the guest whose volume it is, by its name.
func (v *Volume) Owner() int {
	all := owner.FindAllStringSubmatch(v.Name, -1)
	if len(all) == 0 {
		return 0
	}
	id, _ := strconv.Atoi(all[len(all)-1][1])
	return id
}

// Allocate makes a new volume of size bytes for a container. What the tools
// print, it prints.
func (s *Storage) Allocate(vmid int, size int64, unprivileged bool) (*Volume, error) {
	if !s.Has("rootdir") {
		return nil, host.Dief("storage '%s' does not support container directories", s.Name)
	}
	root := 0
	if unprivileged {
		root = 100000
	}
	for n := range 100 {
		v := &Volume{s, s.name(vmid, n, size)}
		path, err := v.Path()
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if v.IsDir() {
			err = os.Mkdir(path, 0o755)
		} else {
			err = format(path, size, root)
		}
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil && v.IsDir() {
			err = os.Chown(path, root, root)
		}
		return v, err
	}
	return nil, host.Dief("unable to allocate an image name for VM %d in storage '%s'", vmid, s.Name)
}

func (s *Storage) name(vmid, n int, size int64) string {
	switch {
	case s.Type == "zfspool":
		return fmt.Sprintf("subvol-%d-disk-%d", vmid, n)
	case size == 0:
		return fmt.Sprintf("%d/subvol-%d-disk-%d.subvol", vmid, vmid, n)
	}
	return fmt.Sprintf("%d/vm-%d-disk-%d.raw", vmid, vmid, n)
}

// format makes a raw image with ext4 on it.
func format(path string, size int64, root int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	size = (size + 1023) / 1024 * 1024
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	fmt.Printf("Formatting '%s', fmt=raw size=%d preallocation=off\n", path, size)
	out, err := exec.Command("mkfs.ext4", "-O", "mmp", "-E", fmt.Sprintf("root_owner=%d:%d", root, root), "-F", path).CombinedOutput()
	if err != nil {
		return host.Dief("command 'mkfs.ext4 -O mmp -F %s' failed: %w: %s", path, err, out)
	}
	PrintMkfs(string(out))
	return nil
}

// PrintMkfs shows of mkfs.ext4's output what Proxmox's tools show.
func PrintMkfs(out string) {
	backups := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "Creating filesystem"), strings.HasPrefix(line, "Filesystem UUID"):
			fmt.Println(line)
		case strings.HasPrefix(line, "Superblock backups"):
			fmt.Println(line)
			backups = true
		case backups && strings.HasPrefix(line, "\t"):
			fmt.Println(line)
		}
	}
}

// Free removes the volume, if it is vmid's own.
func (v *Volume) Free(vmid int) error {
	if v.Owner() != vmid {
		return nil
	}
	if base := v.inUse(); base {
		return host.Dief("base volume '%s' is still in use by linked cloned", v.Name)
	}
	path, err := v.Path()
	if err != nil {
		return err
	}
	if v.IsDir() {
		if err := removeTree(path); err != nil {
			return err
		}
	} else if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, snap := range v.snapshotPaths(path) {
		if err := removeTree(snap); err != nil {
			return err
		}
	}
	if v.Storage.Type == "dir" {
		_ = os.Remove(filepath.Dir(path)) // stays while another volume is in it
	}
	return nil
}

// FreeAll removes every volume that is named after vmid, on all storages.
func FreeAll(vmid int) error {
	all, err := Load()
	if err != nil {
		return err
	}
	for _, s := range all {
		names, err := s.volumes(vmid)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := (&Volume{s, name}).Free(vmid); err != nil {
				return err
			}
		}
	}
	return nil
}

// volumes are the names of those of vmid.
func (s *Storage) volumes(vmid int) (names []string, err error) {
	dir, prefix := s.Opts["mountpoint"], ""
	if s.Type == "dir" {
		dir, prefix = filepath.Join(s.Opts["path"], "images", strconv.Itoa(vmid)), strconv.Itoa(vmid)+"/"
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		v := &Volume{s, prefix + e.Name()}
		if v.Owner() == vmid && !strings.Contains(e.Name(), "@") {
			names = append(names, v.Name)
		}
	}
	return names, err
}

// removeTree removes a volume's directory, unless something is mounted in it.
func removeTree(path string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(data), " "+path+" ") || strings.Contains(string(data), " "+path+"/") {
		return host.Dief("cannot destroy '%s': dataset is busy", path)
	}
	return os.RemoveAll(path)
}

// Full is the error of an allocation on a storage that has no space left.
func (s *Storage) Full(vmid int) error {
	if s.Type == "zfspool" {
		return host.Dief("zfs error: cannot create '%s/subvol-%d-disk-0': out of space", s.Opts["pool"], vmid)
	}
	return host.Dief("mkfs.ext4: No space left on device while writing out and closing file system")
}
