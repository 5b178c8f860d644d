package oci

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultRules are appended to the rules of every container by the OCI
// runtimes, who all have the same list. node is the default node that the
// rule is for: a spec with a device of that path brings its own rule.
var defaultRules = []struct {
	node         string
	kind         string
	major, minor int64
	access       string
}{
	{kind: "c", major: wildcard, minor: wildcard, access: "m"},
	{kind: "b", major: wildcard, minor: wildcard, access: "m"},
	{node: "/dev/null", kind: "c", major: 1, minor: 3, access: "rwm"},
	{node: "/dev/random", kind: "c", major: 1, minor: 8, access: "rwm"},
	{node: "/dev/full", kind: "c", major: 1, minor: 7, access: "rwm"},
	{node: "/dev/tty", kind: "c", major: 5, minor: 0, access: "rwm"},
	{node: "/dev/zero", kind: "c", major: 1, minor: 5, access: "rwm"},
	{node: "/dev/urandom", kind: "c", major: 1, minor: 9, access: "rwm"},
	{kind: "c", major: 136, minor: wildcard, access: "rwm"}, // pts
	{kind: "c", major: 5, minor: 2, access: "rwm"},          // ptmx
	{kind: "c", major: 10, minor: 200, access: "rwm"},       // net/tun
}

// wildcard is how clients write "any number", besides leaving it out.
const wildcard = -1

// DeviceRules completes rules for the container of a spec, as Translate does:
// an update has them as the client wrote them.
func DeviceRules(spec *specs.Spec, rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	in := input{spec: spec, linux: spec.Linux}
	if in.linux == nil {
		in.linux = &specs.Linux{}
	}
	return deviceRules(in, rules)
}

// deviceRules are the rules of a container. As in runc it starts with no
// access to any device, whatever the cgroup above allows: if the spec does
// not begin with a rule for everything, one is put before.
func deviceRules(in input, rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	var out []specs.LinuxDeviceCgroup
	if len(rules) == 0 || !forAll(rules[0]) {
		out = append(out, specs.LinuxDeviceCgroup{Type: "a", Access: "rwm"})
	}
	out = append(out, rules...)
	for _, r := range defaultRules {
		if r.node != "" && specHasDevice(in.linux.Devices, r.node) {
			continue
		}
		out = append(out, specs.LinuxDeviceCgroup{
			Allow: true, Type: r.kind, Major: numberOf(r.major), Minor: numberOf(r.minor), Access: r.access,
		})
	}
	return out
}

func numberOf(n int64) *int64 {
	if n == wildcard {
		return nil
	}
	return &n
}

func specHasDevice(list []specs.LinuxDevice, path string) bool {
	for _, d := range list {
		if d.Path == path {
			return true
		}
	}
	return false
}

func forAll(r specs.LinuxDeviceCgroup) bool { return r.Type == "" || r.Type == "a" }

func checkDeviceRules(path string, rules []specs.LinuxDeviceCgroup) error {
	for i, r := range rules {
		if err := checkDeviceRule(at(path, i), r); err != nil {
			return err
		}
	}
	return nil
}

func checkDeviceRule(path string, r specs.LinuxDeviceCgroup) error {
	switch r.Type {
	case "", "a", "b", "c":
	default:
		return notOneOf(path+".type", r.Type, []string{"a", "b", "c"})
	}
	if r.Access == "" || strings.Trim(r.Access, "rwm") != "" {
		return invalid(path+".access", r.Access, "is not made of r, w and m")
	}
	if forAll(r) && !(strings.Contains(r.Access, "r") && strings.Contains(r.Access, "w") && strings.Contains(r.Access, "m")) {
		return invalid(path+".access", r.Access, `is not "rwm": a rule for all devices is about every access`)
	}
	if err := checkRuleNumber(path+".major", r, r.Major, maxMajor); err != nil {
		return err
	}
	return checkRuleNumber(path+".minor", r, r.Minor, maxMinor)
}

// checkRuleNumber refuses a number in a rule for all devices: the kernel
// ignores it, and the rule would be about more than it says.
func checkRuleNumber(path string, r specs.LinuxDeviceCgroup, n *int64, limit int64) error {
	switch {
	case n == nil || *n == wildcard:
		return nil
	case forAll(r):
		return invalid(path, *n, `can not be in a rule for all devices: type must be "b" or "c"`)
	case *n < 0 || *n > limit:
		return invalid(path, *n, "is not between 0 and %d", limit)
	}
	return nil
}
