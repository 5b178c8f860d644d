package oci

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// namespaceType is a type of linux.namespaces.
type namespaceType struct {
	oci specs.LinuxNamespaceType
	lxc string // its name in an LXC configuration
	// noJoin says why it can not be given by path, "" if it can.
	noJoin string
	// helper says that the helper makes or joins it, not LXC.
	helper bool
}

var namespaceTypes = []namespaceType{
	{oci: specs.MountNamespace, lxc: "mnt", noJoin: `can not be joined: the root file system is made in a new "mount" namespace`},
	{oci: specs.PIDNamespace, lxc: "pid"},
	{oci: specs.UTSNamespace, lxc: "uts"},
	{oci: specs.IPCNamespace, lxc: "ipc"},
	{oci: specs.UserNamespace, lxc: "user"},
	{oci: specs.NetworkNamespace, lxc: "net"},
	// The root of a new cgroup namespace is the group that the process is in,
	// so that the helper makes it when it has joined the container's. Offsets
	// of a time namespace are seconds or nanoseconds with LXC, not both. Seen
	// with LXC 5.0.2: lxc.namespace.share.cgroup makes a new one all the same,
	// and lxc.namespace.share.time fails, because the process that joins it
	// shares its memory.
	{oci: specs.CgroupNamespace, lxc: "cgroup", helper: true},
	{oci: specs.TimeNamespace, lxc: "time", helper: true},
}

func findNamespace(t specs.LinuxNamespaceType) (namespaceType, bool) {
	for _, n := range namespaceTypes {
		if n.oci == t {
			return n, true
		}
	}
	return namespaceType{}, false
}

func translateNamespaces(in input, p *Plan) error {
	p.Namespaces = map[specs.LinuxNamespaceType]Namespace{}
	for i, ns := range in.linux.Namespaces {
		path := at("linux.namespaces", i)
		if err := checkNamespace(path, ns); err != nil {
			return err
		}
		if _, ok := p.Namespaces[ns.Type]; ok {
			return invalid(path+".type", string(ns.Type), "is there twice")
		}
		p.Namespaces[ns.Type] = Namespace{Path: ns.Path}
		if n, _ := findNamespace(ns.Type); ns.Path != "" && !n.helper {
			if err := p.config(path+".path", "lxc.namespace.share."+n.lxc, ns.Path); err != nil {
				return err
			}
		}
	}
	if _, ok := p.Namespaces[specs.MountNamespace]; !ok {
		return notImplemented("linux.namespaces", nil, `a new "mount" namespace is needed: the root file system is made in it`)
	}
	return p.configNamespaces()
}

func checkNamespace(path string, ns specs.LinuxNamespace) error {
	n, ok := findNamespace(ns.Type)
	switch {
	case !ok:
		types := make([]specs.LinuxNamespaceType, len(namespaceTypes))
		for i, t := range namespaceTypes {
			types[i] = t.oci
		}
		return notOneOf(path+".type", ns.Type, types)
	case ns.Path != "" && n.noJoin != "":
		return notImplemented(path+".path", ns.Path, n.noJoin)
	case ns.Path != "" && !filepath.IsAbs(ns.Path):
		return invalid(path+".path", ns.Path, "is not an absolute path")
	}
	return noNUL(path+".path", ns.Path)
}

// configNamespaces says which namespaces LXC makes; it would make all that it
// knows. A new network namespace has a loopback device, which is up.
func (p *Plan) configNamespaces() error {
	var clone []string
	for _, n := range namespaceTypes {
		if p.isNew(n.oci) && !n.helper {
			clone = append(clone, n.lxc)
		}
	}
	lines := [][2]string{{"lxc.namespace.clone", strings.Join(clone, " ")}}
	if ns, ok := p.Namespaces[specs.NetworkNamespace]; !ok {
		lines = append(lines, [2]string{"lxc.net.0.type", "none"})
	} else if ns.Path == "" {
		lines = append(lines, [2]string{"lxc.net.0.type", "empty"}, [2]string{"lxc.net.0.flags", "up"})
	}
	for _, l := range lines {
		if err := p.config("linux.namespaces", l[0], l[1]); err != nil {
			return err
		}
	}
	if p.hostPIDsOnly() {
		// LXC finds the procfs that it needs, instead of mounting one.
		p.Config = append(p.Config, lxcconf.Set("lxc.mount.auto", ""), lxcconf.MountEntry("/proc", "proc", "none", "rbind"))
	}
	return nil
}

// hostPIDsOnly says that the container sees the runtime's pids, but not with
// the rights to mount a procfs of them.
func (p *Plan) hostPIDsOnly() bool { return p.has(specs.UserNamespace) && !p.has(specs.PIDNamespace) }

// isNew says whether the container has a namespace of its own that is made
// for it.
func (p *Plan) isNew(t specs.LinuxNamespaceType) bool {
	ns, ok := p.Namespaces[t]
	return ok && ns.Path == ""
}

// has says whether the container is not in the runtime's namespace, as far as
// the spec says.
func (p *Plan) has(t specs.LinuxNamespaceType) bool {
	_, ok := p.Namespaces[t]
	return ok
}

// maxHostname is the length of a host name and of a domain name in the kernel
// (__NEW_UTS_LEN).
const maxHostname = 64

func translateHostname(in input, p *Plan) error {
	host, domain := in.spec.Hostname, in.spec.Domainname
	for _, f := range []struct{ path, value string }{{"hostname", host}, {"domainname", domain}} {
		if f.value == "" {
			continue
		}
		if err := p.checkUTSName(f.path, f.value); err != nil {
			return err
		}
	}
	p.Hostname, p.Domainname = host, domain
	if host == "" || !p.isNew(specs.UTSNamespace) {
		return nil
	}
	return p.config("hostname", "lxc.uts.name", host)
}

func (p *Plan) checkUTSName(path, value string) error {
	switch {
	case !p.has(specs.UTSNamespace):
		return invalid(path, value, `needs a "uts" namespace: it would be the host's`)
	case len(value) > maxHostname:
		return invalid(path, value, "is longer than %d bytes", maxHostname)
	case strings.ContainsFunc(value, isControl) || strings.Contains(value, "/"):
		return invalid(path, value, "has a control character or a slash")
	}
	return nil
}
