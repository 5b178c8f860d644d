package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// timeClocks are the clocks of a time namespace (time_namespaces(7)).
var timeClocks = []string{"boottime", "monotonic"}

const nanosecond = 1_000_000_000 // of a second

func translateTimeOffsets(in input, p *Plan) error {
	const path = "linux.timeOffsets"
	offsets := in.linux.TimeOffsets
	if len(offsets) == 0 {
		return nil
	}
	if !p.isNew(specs.TimeNamespace) {
		return invalid(path, nil, `needs a new "time" namespace: an offset is set before there is a process in it`)
	}
	var b strings.Builder
	for _, clock := range sortedKeys(offsets) {
		if clock != timeClocks[0] && clock != timeClocks[1] {
			return invalid(key(path, clock), nil, "is not one of %s", strings.Join(timeClocks, ", "))
		}
		o := offsets[clock]
		if o.Nanosecs >= nanosecond {
			return invalid(key(path, clock)+".nanosecs", o.Nanosecs, "is not less than a second")
		}
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	p.TimeOffsets = b.String()
	return nil
}
