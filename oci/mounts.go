package oci

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func translateMounts(in input, p *Plan) error {
	for i, m := range in.spec.Mounts {
		t, err := in.mount(i, m)
		if err != nil {
			return err
		}
		if t.Kind == MountProc && p.hostPIDsOnly() {
			return invalid(at("mounts", i)+".type", m.Type, `needs a "pid" namespace with the "user" namespace: the kernel has no new procfs of the host's pids for it; bind /proc instead`)
		}
		if !filepath.IsAbs(m.Destination) {
			p.warn(at("mounts", i)+".destination", m.Destination, "is not absolute, and is taken as relative to /")
		}
		p.Mounts = append(p.Mounts, t)
		if t.Kind == MountBind && t.Destination == devDir {
			p.BoundDev = true
		}
	}
	return nil
}

func (in input) mount(i int, m specs.Mount) (Mount, error) {
	path := at("mounts", i)
	if err := checkMountStrings(path, m); err != nil {
		return Mount{}, err
	}
	o := parseMountOptions(m.Options)
	t := Mount{
		Index:       i,
		Destination: filepath.Clean("/" + m.Destination),
		Type:        m.Type,
		Source:      m.Source,
		Set:         o.mount.set, Clear: o.mount.clear,
		RecSet: o.tree.set, RecClear: o.tree.clear,
		Propagation: o.propagation,
	}
	if t.Destination == "/" {
		return Mount{}, invalid(path+".destination", m.Destination, "is the root file system itself")
	}
	if err := in.kindOf(path, &t, m, o); err != nil {
		return Mount{}, err
	}
	return t, in.mountIDMap(path, &t, m, o)
}

func checkMountStrings(path string, m specs.Mount) error {
	if m.Destination == "" {
		return invalid(path+".destination", nil, "is required")
	}
	for _, f := range [][2]string{{".destination", m.Destination}, {".source", m.Source}, {".type", m.Type}} {
		if err := noNUL(path+f[0], f[1]); err != nil {
			return err
		}
	}
	return noNULs(path+".options", m.Options)
}

// kindOf decides what kind of mount t is, and sets what only that kind has.
func (in input) kindOf(path string, t *Mount, m specs.Mount, o parsedOptions) error {
	switch {
	case o.remount:
		t.Kind, t.Data = MountRemount, o.reconfigureData()
	case o.bind || m.Type == "bind":
		t.Kind, t.Recursive = MountBind, o.rbind
		if t.Set|t.Clear != 0 {
			t.Drop = inherited &^ (t.Set | t.Clear)
		}
		return in.bindMount(path, t, m, o)
	case m.Type == "" || m.Type == "none":
		return invalid(path+".type", m.Type, "is not a file system, and options have no bind, rbind or remount")
	case m.Type == "proc":
		t.Kind, t.Data = MountProc, o.fsData()
	case m.Type == "cgroup" || m.Type == "cgroup2":
		t.Kind, t.Data = MountCgroup, o.fsData()
	default:
		t.Kind, t.Data = MountFS, o.fsData()
	}
	if o.copyUp && m.Type != "tmpfs" {
		return invalid(path+".options", "tmpcopyup", "is for tmpfs, not for %q", m.Type)
	}
	t.TmpCopyUp = o.copyUp
	return nil
}

// inherited are the attributes that a bind mount has from what it shows. Those of
// access times stay unless an option is about them, as with mount(2).
const inherited = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// bindMount refuses options of the file system: the kernel would ignore them
// without a word.
func (in input) bindMount(path string, t *Mount, m specs.Mount, o parsedOptions) error {
	if m.Source == "" {
		return invalid(path+".source", nil, "is required for a bind mount")
	}
	t.Type, t.Source = "", in.fromBundle(m.Source)
	if len(o.data) > 0 {
		return invalid(path+".options", o.data[0].String(), "is not an option that a bind mount can have")
	}
	for _, name := range sortedKeys(o.fs) {
		if o.fs[name] {
			return invalid(path+".options", name, "belongs to the file system: a bind mount can not have it")
		}
	}
	if o.copyUp {
		return invalid(path+".options", "tmpcopyup", "is for tmpfs, not for a bind mount")
	}
	return nil
}

// parsedOptions are the options of a mount, sorted by what they are about.
type parsedOptions struct {
	mount, tree                  attributes
	propagation                  []uint64
	bind, rbind, remount, copyUp bool
	idmap, ridmap                bool

	fs   map[string]bool // sync and the like: whether they are wanted
	data []FSOption      // what is the file system's own
}

func parseMountOptions(options []string) parsedOptions {
	p := parsedOptions{fs: map[string]bool{}}
	for _, name := range options {
		o, known := mountOptions[name]
		if known {
			p.apply(o)
		} else {
			p.data = append(p.data, parseFSOptions(name)...)
		}
	}
	return p
}

func (p *parsedOptions) apply(o mountOption) {
	if o.rec {
		p.tree.apply(o)
	} else {
		p.mount.apply(o)
	}
	if o.propagation != 0 {
		p.propagation = append(p.propagation, o.propagation)
	}
	if o.fs != "" {
		p.fs[o.fs] = true
	}
	if o.noFS != "" {
		p.fs[o.noFS] = false
	}
	p.bind = p.bind || o.bind
	p.rbind = p.rbind || o.rbind
	p.remount = p.remount || o.remount
	p.copyUp = p.copyUp || o.copyUp
	p.idmap = p.idmap || o.idmap
	p.ridmap = p.ridmap || o.idmap && o.rec
}

// fsData are the options for a new file system, which has none of the flags
// that could be withdrawn.
func (p *parsedOptions) fsData() []FSOption {
	data := slices.Clone(p.data)
	for _, name := range sortedKeys(p.fs) {
		if p.fs[name] {
			data = append(data, FSOption{Key: name, Flag: true})
		}
	}
	return data
}

// reconfigureData are the options for a file system that is there already.
func (p *parsedOptions) reconfigureData() []FSOption {
	data := p.fsData()
	for _, name := range sortedKeys(p.fs) {
		if !p.fs[name] {
			data = append(data, FSOption{Key: withdraw[name], Flag: true})
		}
	}
	return data
}

// withdraw are the names by which fsconfig(2) takes a flag back.
var withdraw = map[string]string{"sync": "async", "lazytime": "nolazytime", "mand": "nomand", "iversion": "noiversion"}

// parseFSOptions splits an option at commas, as mount(2) would, which gets
// all of them in one string. A comma after a backslash is part of a value
// (overlayfs).
func parseFSOptions(s string) []FSOption {
	var data []FSOption
	for len(s) > 0 {
		n := 0
		for n < len(s) && s[n] != ',' {
			if s[n] == '\\' && n+1 < len(s) {
				n++
			}
			n++
		}
		if n > 0 {
			data = append(data, parseFSOption(s[:n]))
		}
		s = s[min(n+1, len(s)):]
	}
	return data
}

func parseFSOption(s string) FSOption {
	k, v, found := strings.Cut(s, "=")
	return FSOption{Key: k, Value: v, Flag: !found}
}

func (o FSOption) String() string {
	if o.Flag {
		return o.Key
	}
	return o.Key + "=" + o.Value
}
