package cgroup

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

// Rules that a v1 kernel takes, but does not follow, are refused.
func TestRulesThatV1CanNotExpress(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	nothing, everything := specs.LinuxDeviceCgroup{Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"}
	for name, tc := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		wrong string
	}{
		"allowances":                {[]specs.LinuxDeviceCgroup{nothing, rule(true, "c", 1, 3, "rwm"), rule(true, "c", -1, -1, "m")}, ""},
		"a hole":                    {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "r"), rule(false, "b", 7, 2, "r")}, "linux.resources.devices[2]"},
		"more than is allowed":      {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, 2, "r"), rule(false, "b", 7, -1, "r")}, "linux.resources.devices[2]"},
		"a hole in another access":  {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "r"), rule(false, "b", 7, 2, "w")}, ""},
		"a hole in another type":    {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "r"), rule(false, "c", 7, 2, "r")}, ""},
		"the same, taken back":      {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "r"), rule(false, "b", 7, -1, "rw"), rule(false, "b", 7, 2, "r")}, ""},
		"a part of it, taken back":  {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "rw"), rule(false, "b", 7, -1, "r")}, ""},
		"all but one":               {[]specs.LinuxDeviceCgroup{everything, rule(false, "b", 8, -1, "rwm"), rule(true, "b", -1, -1, "m")}, ""},
		"but one of those":          {[]specs.LinuxDeviceCgroup{everything, rule(false, "b", 8, -1, "rwm"), rule(true, "b", 8, 1, "r")}, "linux.resources.devices[2]"},
		"forgotten by a later rule": {[]specs.LinuxDeviceCgroup{nothing, rule(true, "b", 7, -1, "r"), everything, rule(false, "b", 7, 2, "r")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := expressibleV1(tc.rules)
			if tc.wrong == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
			assert.ErrorContains(t, err, tc.wrong)
		})
	}
}
