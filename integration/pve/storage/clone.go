package storage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// inUse says whether a base volume has linked clones: they are named after it.
func (v *Volume) inUse() bool {
	if v.Storage.Type != "zfspool" || !strings.HasPrefix(v.Name, "basevol-") {
		return false
	}
	confs, err := filepath.Glob(filepath.Join(host.EtcPVE, "nodes/*/lxc/*.conf"))
	if err != nil {
		return true
	}
	for _, path := range confs {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), v.ID()+"/") {
			return true
		}
	}
	return false
}

// MakeBase makes the volume a template's.
func (v *Volume) MakeBase() (*Volume, error) {
	base := &Volume{v.Storage, strings.Replace(v.Name, "subvol-", "basevol-", 1)}
	if v.Storage.Type != "zfspool" {
		base.Name = strings.Replace(v.Name, "/vm-", "/base-", 1)
	}
	from, err := v.Path()
	if err != nil {
		return nil, err
	}
	to, err := base.Path()
	if err != nil {
		return nil, err
	}
	return base, os.Rename(from, to)
}

// LinkedClone makes a clone of a base volume.
func (v *Volume) LinkedClone(vmid int) (*Volume, error) {
	if !v.Storage.Clones() {
		return nil, host.Dief("Linked clone feature for '%s' is not available", v.ID())
	}
	free, err := v.Storage.Allocate(vmid, 0, false)
	if err != nil {
		return nil, err
	}
	clone := &Volume{v.Storage, filepath.Base(v.Name) + "/" + free.Name}
	return clone, v.copyTo(clone)
}

// FullClone copies the volume to a storage.
func (v *Volume) FullClone(vmid int, to *Storage, size int64) (*Volume, error) {
	clone, err := to.Allocate(vmid, size, false)
	if err != nil {
		return nil, err
	}
	return clone, v.copyTo(clone)
}

func (v *Volume) copyTo(clone *Volume) error {
	from, err := v.Path()
	if err != nil {
		return err
	}
	to, err := clone.Path()
	if err != nil {
		return err
	}
	return copyVolume(from, to, v.IsDir(), clone.IsDir())
}

func copyVolume(from, to string, fromDir, toDir bool) error {
	if fromDir != toDir {
		return host.Dief("cannot copy between an image and a directory")
	}
	args := []string{"-a", "--reflink=auto", "--sparse=always", "-T", from, to}
	if out, err := exec.Command("cp", args...).CombinedOutput(); err != nil {
		return host.Dief("cp %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// snapshotPaths are the copies that are the volume's snapshots.
func (v *Volume) snapshotPaths(path string) []string {
	found, _ := filepath.Glob(path + "@*") // a bad pattern is no volume's name
	return found
}

// Snapshot keeps the volume's state under a name.
func (v *Volume) Snapshot(name string) error {
	path, err := v.Path()
	if err != nil {
		return err
	}
	return copyVolume(path, path+"@"+name, true, true)
}

// Rollback brings a kept state back.
func (v *Volume) Rollback(name string) error {
	path, err := v.Path()
	if err != nil {
		return err
	}
	if err := removeTree(path); err != nil {
		return err
	}
	return copyVolume(path+"@"+name, path, true, true)
}

// DropSnapshot forgets a kept state.
func (v *Volume) DropSnapshot(name string) error {
	path, err := v.Path()
	if err != nil {
		return err
	}
	return removeTree(path + "@" + name)
}

// Of returns the volumes of a set of properties: rootfs and mpN, without
// directories and devices.
func Of(s *ctconf.Section) ([]*Volume, error) {
	var all []*Volume
	for key, value := range s.Props {
		if name, ok := ctconf.Property(key, ctconf.PVE91); !ok || name != "rootfs" && name != "mp" && name != "unused" {
			continue
		}
		p, err := ctconf.ParsePairs(value, "volume")
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(p["volume"], "/") {
			continue
		}
		v, err := Parse(p["volume"])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}
