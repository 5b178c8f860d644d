package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// refusal is a property that the LXC backend does not apply. value is what
// the spec has, nil if it has nothing.
type refusal struct {
	path   string
	value  func(*specs.Spec) any
	reason string
}

const otherPlatform = "is for another platform than Linux"

// refusals are the properties that are refused as a whole. Values and
// elements that are refused of properties that are otherwise supported
// (namespace types, hooks, mount options) are with those.
var refusals = []refusal{
	{"solaris", func(s *specs.Spec) any { return set(s.Solaris != nil) }, otherPlatform},
	{"windows", func(s *specs.Spec) any { return set(s.Windows != nil) }, otherPlatform},
	{"vm", func(s *specs.Spec) any { return set(s.VM != nil) }, otherPlatform},
	{"zos", func(s *specs.Spec) any { return set(s.ZOS != nil) }, otherPlatform},
	{"freebsd", func(s *specs.Spec) any { return set(s.FreeBSD != nil) }, otherPlatform},
}

// processRefusals are those of a process, which an exec has as well.
var processRefusals = []refusal{
	{"process.commandLine", func(s *specs.Spec) any { return text(s.Process.CommandLine) }, otherPlatform},
	{"process.user.username", func(s *specs.Spec) any { return text(s.Process.User.Username) }, otherPlatform},
}

// present stands for the value of a property whose value would say nothing.
type present struct{}

func set(is bool) any {
	if is {
		return present{}
	}
	return nil
}

func text(s string) any {
	if s != "" {
		return s
	}
	return nil
}

func refuse(table []refusal, s *specs.Spec) error {
	for _, r := range table {
		switch v := r.value(s).(type) {
		case nil:
		case present:
			return notImplemented(r.path, nil, r.reason)
		default:
			return notImplemented(r.path, v, r.reason)
		}
	}
	return nil
}

func refuseUnsupported(in input, _ *Plan) error {
	s := *in.spec
	s.Linux = in.linux
	return refuse(refusals, &s)
}

func refuseProcess(p *specs.Process) error {
	return refuse(processRefusals, &specs.Spec{Process: p})
}
