package oci

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

func namespaces(list ...specs.LinuxNamespace) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Namespaces = list }
}

func newNS(t specs.LinuxNamespaceType) specs.LinuxNamespace { return specs.LinuxNamespace{Type: t} }

func joinNS(t specs.LinuxNamespaceType, path string) specs.LinuxNamespace {
	return specs.LinuxNamespace{Type: t, Path: path}
}

func lines(kv ...string) []lxcconf.Line {
	var out []lxcconf.Line
	for i := 0; i < len(kv); i += 2 {
		out = append(out, lxcconf.Set(kv[i], kv[i+1]))
	}
	return out
}

func TestNamespaces(t *testing.T) {
	for _, c := range []struct {
		name string
		list []specs.LinuxNamespace
		want []lxcconf.Line
	}{
		{
			"the host's network is used as it is", []specs.LinuxNamespace{newNS("mount")},
			lines("lxc.namespace.clone", "mnt", "lxc.net.0.type", "none"),
		},
		{
			"all that are new, in one order",
			[]specs.LinuxNamespace{newNS("time"), newNS("cgroup"), newNS("network"), newNS("ipc"), newNS("uts"), newNS("pid"), newNS("mount")},
			lines("lxc.namespace.clone", "mnt pid uts ipc net", "lxc.net.0.type", "empty", "lxc.net.0.flags", "up"),
		},
		{
			"a network that is joined is left alone",
			[]specs.LinuxNamespace{newNS("mount"), newNS("pid"), joinNS("network", "/run/netns/a b")},
			lines("lxc.namespace.share.net", "/run/netns/a b", "lxc.namespace.clone", "mnt pid"),
		},
		{
			"every one that can be joined; LXC does not know of those that the helper joins",
			[]specs.LinuxNamespace{newNS("mount"), joinNS("pid", "/p"), joinNS("uts", "/u"), joinNS("ipc", "/i"), joinNS("network", "/n"), joinNS("cgroup", "/c"), joinNS("time", "/t")},
			lines("lxc.namespace.share.pid", "/p", "lxc.namespace.share.uts", "/u", "lxc.namespace.share.ipc", "/i", "lxc.namespace.share.net", "/n",
				"lxc.namespace.clone", "mnt"),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := translate(t, namespaces(c.list...))
			assert.Equal(t, c.want, p.Config)
			for _, ns := range c.list {
				assert.Equal(t, Namespace{Path: ns.Path}, p.Namespaces[ns.Type])
			}
			assert.Len(t, p.Namespaces, len(c.list))
		})
	}
}

func TestNamespacesThatAreRefused(t *testing.T) {
	testRefused(t, []refusedCase{
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, `linux.namespaces: a new "mount" namespace is needed: the root file system is made in it`, errdefs.ErrNotImplemented},
		{"mount of the host", namespaces(newNS("pid")), `linux.namespaces: a new "mount" namespace is needed: the root file system is made in it`, errdefs.ErrNotImplemented},
		{
			"mount joined", namespaces(joinNS("mount", "/proc/1/ns/mnt")),
			`linux.namespaces[0].path: "/proc/1/ns/mnt" can not be joined: the root file system is made in a new "mount" namespace`, errdefs.ErrNotImplemented,
		},
		{"relative time", namespaces(newNS("mount"), joinNS("time", "t")), `linux.namespaces[1].path: "t" is not an absolute path`, nil},
		{"NUL in cgroup", namespaces(newNS("mount"), joinNS("cgroup", "/\x00")), `linux.namespaces[1].path: "/\x00" has a NUL byte`, nil},
		{"twice", namespaces(newNS("mount"), newNS("pid"), joinNS("pid", "/x")), `linux.namespaces[2].type: "pid" is there twice`, nil},
		{"unknown", namespaces(newNS("net")), `linux.namespaces[0].type: "net" is not one of mount, pid, uts, ipc, user, network, cgroup, time`, nil},
		{"relative", namespaces(newNS("mount"), joinNS("pid", "proc/1/ns/pid")), `linux.namespaces[1].path: "proc/1/ns/pid" is not an absolute path`, nil},
		{
			"a line more", namespaces(newNS("mount"), joinNS("network", "/x\nlxc.hook.pre-start = /bin/sh")),
			`linux.namespaces[1].path: "/x\nlxc.hook.pre-start = /bin/sh" can not be written to an LXC configuration, which has no quoting`, nil,
		},
	})
}

func TestHostName(t *testing.T) {
	host := func(s *specs.Spec) { s.Hostname, s.Domainname = "web", "example.org" }

	p := translate(t, namespaces(newNS("mount"), newNS("uts")), host)
	assert.Contains(t, p.Config, lxcconf.Set("lxc.uts.name", "web"))
	assert.Equal(t, "web", p.Hostname)
	assert.Equal(t, "example.org", p.Domainname)

	p = translate(t, namespaces(newNS("mount"), joinNS("uts", "/proc/1/ns/uts")), host)
	assert.NotContains(t, p.Config, lxcconf.Set("lxc.uts.name", "web"), "LXC does not set it there")
	assert.Equal(t, "web", p.Hostname)

	uts := namespaces(newNS("mount"), newNS("uts"))
	named := func(host, domain string) func(*specs.Spec) {
		return func(s *specs.Spec) { uts(s); s.Hostname, s.Domainname = host, domain }
	}
	translate(t, named(strings.Repeat("a", 64), strings.Repeat("b", 64)))
	long := strings.Repeat("a", 65)
	testRefused(t, []refusedCase{
		{"of the host", func(s *specs.Spec) { s.Hostname = "web" }, `hostname: "web" needs a "uts" namespace: it would be the host's`, nil},
		{"domain of the host", func(s *specs.Spec) { s.Domainname = "x" }, `domainname: "x" needs a "uts" namespace: it would be the host's`, nil},
		{"long", named(long, ""), `hostname: "` + long + `" is longer than 64 bytes`, nil},
		{"long domain", named("", long), `domainname: "` + long + `" is longer than 64 bytes`, nil},
		{"NUL in domain", named("", "a\x00"), `domainname: "a\x00" has a control character or a slash`, nil},
		{"newline", named("a\nlxc.x = y", ""), `hostname: "a\nlxc.x = y" has a control character or a slash`, nil},
		{"slash", named("../a", ""), `hostname: "../a" has a control character or a slash`, nil},
		{"quotes", named(`"a"`, ""), `hostname: "\"a\"" can not be written to an LXC configuration, which has no quoting`, nil},
	})
}
