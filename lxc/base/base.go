// Package base is the first root of a container: an empty directory with the
// helper and its socket, which LXC starts the container on, so that LXC never
// meets the image. Package rootfs replaces it while the helper waits. It is
// what the hosts have in common.
package base

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// Dir is a base directory: an absolute path.
type Dir string

// Names in it.
const (
	initName = "init" // the helper, bound by LXC
	procName = "proc" // LXC's procfs
	rootName = "root" // where the root file system is attached
	devName  = "dev"  // LXC 5.0 wants to find one
	sockName = "sock" // the helper's socket; is left when the shim dies before it connects
)

// Make makes the directory and what LXC needs in it. What is there already
// stays.
func (d Dir) Make() error {
	for _, name := range []string{"", procName, rootName, devName} {
		if err := os.MkdirAll(d.join(name), 0o711); err != nil {
			return err
		}
	}
	return os.WriteFile(d.join(initName), nil, 0o555)
}

// Own gives the directory to the root of a user namespace, which LXC works
// with: uid and gid are what the host knows it as.
func (d Dir) Own(uid, gid int) error {
	for _, name := range []string{"", procName, rootName, devName} {
		if err := os.Lchown(d.join(name), uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// Lines configure LXC to start the helper on a base directory, which the host
// makes its root. helper is the path of nexcage-init.
func Lines(helper string) []lxcconf.Line {
	return []lxcconf.Line{
		lxcconf.Set("lxc.init.cmd", "/"+initName),
		lxcconf.MountEntry(helper, initName, "none", "bind,ro,nosuid,nodev"),
		lxcconf.Set("lxc.mount.auto", "proc:rw"),
		lxcconf.Set("lxc.autodev", "0"),
		lxcconf.Set("lxc.console.path", "none"),
		lxcconf.Set("lxc.tty.max", "0"),
		lxcconf.Set("lxc.pty.max", "0"),
		lxcconf.Set("lxc.cap.drop", ""),
	}
}

// Remove removes the directory of a container that has ended or was never
// started. Something in it that neither Make nor LXC nor the helper makes is
// an error; what is gone already is none.
func (d Dir) Remove() error {
	links, err := os.ReadDir(d.join(devName)) // LXC makes some
	errs := []error{ignoreMissing(err)}
	var names []string
	for _, l := range links {
		names = append(names, filepath.Join(devName, l.Name()))
	}
	for _, name := range append(names, devName, initName, procName, rootName, sockName, "") {
		errs = append(errs, ignoreMissing(os.Remove(d.join(name))))
	}
	return errors.Join(errs...)
}

func (d Dir) join(name string) string { return filepath.Join(string(d), name) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
