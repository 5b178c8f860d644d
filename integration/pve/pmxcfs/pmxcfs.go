// Package pmxcfs is a file system like Proxmox's cluster file system at
// /etc/pve, for the stand-in host of the tests: in memory, on one machine.
//
// It has pmxcfs's rules: a guest's id exists once in the cluster, whatever the
// node and the type of guest; no links, fixed modes, files of at most 1 MiB;
// without quorum nothing can be written; .vmlist is always exact. What it does
// not have: other machines, the locks below priv/lock that expire, /etc/pve's
// database on disk.
package pmxcfs

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxFile is pmxcfs's limit for a file, in bytes.
const maxFile = 1 << 20

// wwwData is the group that pmxcfs shows (www-data in Debian).
const wwwData = 33

// FS is one mounted cluster file system.
type FS struct {
	node    string
	quorate func() bool
	fault   func(operation, path string) syscall.Errno
	server  *fuse.Server

	mu      sync.Mutex
	version uint64
	root    *dir
}

// Mount mounts the file system of a one-node cluster. quorate is asked before
// everything that changes it; fault, before files are changed, fails that unless it is 0.
func Mount(at, node string, quorate func() bool, fault func(operation, path string) syscall.Errno) (*FS, error) {
	f := &FS{node: node, quorate: quorate, fault: fault, version: 1}
	f.root = newDir(f, "")
	f.skeleton()
	zero := time.Duration(0)
	server, err := fs.Mount(at, f.root, &fs.Options{
		EntryTimeout: &zero, AttrTimeout: &zero, NegativeTimeout: &zero,
		MountOptions: fuse.MountOptions{
			AllowOther: true, DirectMountStrict: true, FsName: "/dev/fuse", Name: "pmxcfs",
			Options: []string{"default_permissions"}, DisableXAttrs: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount the cluster file system at %s: %w", at, err)
	}
	f.server = server
	return f, nil
}

// Wait returns when the file system was unmounted.
func (f *FS) Wait() { f.server.Wait() }

// Unmount ends it.
func (f *FS) Unmount() error { return f.server.Unmount() }

// skeleton is what a fresh node has.
func (f *FS) skeleton() {
	for _, path := range []string{
		"nodes/" + f.node + "/lxc", "nodes/" + f.node + "/qemu-server", "nodes/" + f.node + "/priv",
		"firewall", "ha", "mapping", "priv/lock", "sdn", "virtual-guest",
	} {
		d := f.root
		for _, name := range strings.Split(path, "/") {
			sub, ok := d.entries[name].(*dir)
			if !ok {
				sub = newDir(f, d.path+"/"+name)
				d.entries[name] = sub
			}
			d = sub
		}
	}
	f.root.entries["local"] = &link{target: "nodes/" + f.node}
	f.root.entries["lxc"] = &link{target: "nodes/" + f.node + "/lxc"}
	f.root.entries["qemu-server"] = &link{target: "nodes/" + f.node + "/qemu-server"}
	f.root.entries[".vmlist"] = &generated{make: f.vmlist}
	f.root.entries[".members"] = &generated{make: f.members}
	f.root.entries[".version"] = &generated{make: f.versions}
}

// mayChange says whether the cluster can be written to.
func (f *FS) mayChange() syscall.Errno {
	if !f.quorate() {
		return syscall.EACCES
	}
	return 0
}

// guestPath is a guest's configuration, relative to the root.
var guestPath = regexp.MustCompile(`^/nodes/([^/]+)/(lxc|qemu-server)/([1-9][0-9]{2,8})\.conf$`)

// guests calls each for every guest of the cluster.
func (f *FS) guests(each func(node, kind, id string, file *file)) {
	nodes, _ := f.root.entries["nodes"].(*dir)
	for _, n := range nodes.entries {
		node, ok := n.(*dir)
		if !ok {
			continue
		}
		for _, kind := range []string{"lxc", "qemu-server"} {
			d, ok := node.entries[kind].(*dir)
			if !ok {
				continue
			}
			for name, e := range d.entries {
				m := guestPath.FindStringSubmatch(d.path + "/" + name)
				if conf, ok := e.(*file); ok && m != nil {
					each(m[1], kind, m[3], conf)
				}
			}
		}
	}
}

// taken says whether path is a guest's configuration whose id another path
// has already: memdb.c refuses that as EEXIST.
func (f *FS) taken(path, except string) bool {
	m := guestPath.FindStringSubmatch(path)
	if m == nil {
		return false
	}
	found := false
	f.guests(func(node, kind, id string, _ *file) {
		other := fmt.Sprintf("/nodes/%s/%s/%s.conf", node, kind, id)
		found = found || id == m[3] && other != path && other != except
	})
	return found
}

func (f *FS) vmlist() []byte {
	type guest struct {
		Node    string `json:"node"`
		Type    string `json:"type"`
		Version uint64 `json:"version"`
	}
	list := struct {
		Version uint64           `json:"version"`
		IDs     map[string]guest `json:"ids,omitempty"`
	}{Version: f.version, IDs: map[string]guest{}}
	f.guests(func(node, kind, id string, conf *file) {
		if kind == "qemu-server" {
			kind = "qemu"
		}
		list.IDs[id] = guest{node, kind, conf.version}
	})
	return mustJSON(list)
}

func (f *FS) members() []byte {
	quorate := 0
	if f.quorate() {
		quorate = 1
	}
	return mustJSON(map[string]any{
		"nodename": f.node, "version": 1,
		"cluster":  map[string]any{"name": "standin", "version": 1, "nodes": 1, "quorate": quorate},
		"nodelist": map[string]any{f.node: map[string]any{"id": 1, "online": 1, "ip": "10.9.0.1"}},
	})
}

func (f *FS) versions() []byte {
	return mustJSON(map[string]any{"starttime": 1, "clinfo": 1, "vmlist": f.version, "api": 1})
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and numbers
	}
	return append(data, '\n')
}

// changed counts a change of the cluster's files.
func (f *FS) changed() uint64 {
	f.version++
	return f.version
}

// mode of a file or directory: below priv only root reads.
func mode(path string, isDir bool) uint32 {
	private := strings.Contains(path+"/", "/priv/")
	switch {
	case isDir && private:
		return 0o700
	case isDir:
		return 0o755
	case private:
		return 0o600
	}
	return 0o640
}

// Quorum reads a file that says "0" when there is none.
func Quorum(path string) func() bool {
	return func() bool {
		data, err := os.ReadFile(path)
		if err != nil {
			return true
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		return err != nil || n != 0
	}
}

func attr(out *fuse.Attr, path string, isDir bool, size int, at time.Time) {
	out.Mode = mode(path, isDir)
	out.Size = uint64(size)
	out.Gid = wwwData
	out.Nlink = 1
	out.SetTimes(&at, &at, &at)
	if isDir {
		out.Mode |= unix.S_IFDIR
	} else {
		out.Mode |= unix.S_IFREG
	}
}
