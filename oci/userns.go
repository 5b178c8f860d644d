package oci

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// OwnUserNamespace says whether a container whose spec asks for no user
// namespace can have one of its own without noticing: it must have a new
// namespace of each kind that a user namespace owns, or it would lose its
// rights over what it shares with the host or with others. If it can not,
// why says what is in the way.
func OwnUserNamespace(spec *specs.Spec) (why string, ok bool) {
	if spec.Linux == nil {
		return "it has no namespaces", false
	}
	p := &Plan{Namespaces: map[specs.LinuxNamespaceType]Namespace{}}
	for _, ns := range spec.Linux.Namespaces {
		p.Namespaces[ns.Type] = Namespace{Path: ns.Path}
		if ns.Path != "" {
			return "it joins a " + string(ns.Type) + " namespace", false
		}
	}
	if p.UserNamespace() {
		return "its spec has a user namespace", false
	}
	for _, t := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace,
	} {
		if !p.isNew(t) {
			return "it shares the host's " + string(t) + " namespace", false
		}
	}
	return "", true
}

// WithUserNamespace returns the spec with a new user namespace, and with its
// bind mounts idmapped so that files keep their owners on disk; but for those
// for which plain says that they have no owners to keep. The spec itself is
// left as it is.
func WithUserNamespace(spec *specs.Spec, m IDMap, plain func(specs.Mount) bool) *specs.Spec {
	s, linux := *spec, *spec.Linux
	linux.Namespaces = append(slices.Clone(linux.Namespaces), specs.LinuxNamespace{Type: specs.UserNamespace})
	linux.UIDMappings, linux.GIDMappings = m.UIDs, m.GIDs
	s.Linux = &linux
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		s.Mounts[i].Options = idmapped(s.Mounts[i], plain)
	}
	return &s
}

func idmapped(m specs.Mount, plain func(specs.Mount) bool) []string {
	o := parseMountOptions(m.Options)
	switch {
	case o.remount, !o.bind && m.Type != "bind", o.idmap, len(m.UIDMappings) > 0, plain(m):
		return m.Options
	case o.rbind:
		return append(slices.Clone(m.Options), "ridmap")
	}
	return append(slices.Clone(m.Options), "idmap")
}
