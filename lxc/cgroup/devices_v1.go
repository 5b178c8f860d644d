package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// expressibleV1 finds rules that v1 would take without effect. It has a default
// and a list of exceptions from it (security/device_cgroup.c): a rule that goes
// back to the default takes access from the exception with the very same
// numbers, and from no other. So what it means for others is lost, which may be
// the denial of a device. An allowance is lost only where it is for a part: one
// for more (mknod of everything) has nothing to give back where the others are.
func expressibleV1(rules []specs.LinuxDeviceCgroup) error {
	var exceptions []specs.LinuxDeviceCgroup
	var byDefault bool
	for i, r := range rules {
		switch {
		case r.Type == "" || r.Type == "a":
			byDefault, exceptions = r.Allow, nil
		case r.Allow != byDefault:
			exceptions = append(exceptions, r)
		default:
			exceptions = slices.DeleteFunc(exceptions, func(e specs.LinuxDeviceCgroup) bool {
				return sameDevices(r, e) && strings.Trim(accessOr(e.Access), accessOr(r.Access)) == ""
			})
			for _, e := range exceptions {
				if overlap(r, e) && !sameDevices(r, e) && (!r.Allow || isPart(r, e)) {
					return fmt.Errorf("linux.resources.devices[%d]: %q can not be taken out of %q: cgroup v1 has no such rules: %w",
						i, deviceRule(r), deviceRule(e), errdefs.ErrNotImplemented)
				}
			}
		}
	}
	return nil
}

func anyNumber(n *int64) bool { return n == nil || *n < 0 }

func sameNumber(a, b *int64) bool {
	return anyNumber(a) && anyNumber(b) || !anyNumber(a) && !anyNumber(b) && *a == *b
}

func sameDevices(r, e specs.LinuxDeviceCgroup) bool {
	return r.Type == e.Type && sameNumber(r.Major, e.Major) && sameNumber(r.Minor, e.Minor)
}

// overlap says that there is an access that both rules speak of.
func overlap(r, e specs.LinuxDeviceCgroup) bool {
	meet := func(a, b *int64) bool { return anyNumber(a) || anyNumber(b) || *a == *b }
	return r.Type == e.Type && strings.ContainsAny(accessOr(r.Access), accessOr(e.Access)) && meet(r.Major, e.Major) && meet(r.Minor, e.Minor)
}

// isPart says that r is about fewer devices than e, which overlaps.
func isPart(r, e specs.LinuxDeviceCgroup) bool {
	return anyNumber(e.Major) && !anyNumber(r.Major) || anyNumber(e.Minor) && !anyNumber(r.Minor)
}
