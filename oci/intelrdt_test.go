package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

func TestIntelRdt(t *testing.T) {
	rdt := func(r specs.LinuxIntelRdt) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.IntelRdt = &r }
	}
	assert.Nil(t, translate(t).IntelRdt)
	for _, good := range []specs.LinuxIntelRdt{
		{}, {ClosID: "/"}, {ClosID: "gold", L3CacheSchema: "L3:0=7f0;1=1f", MemBwSchema: "MB:0=20"}, {Schemata: []string{"L2:0=f", "L3CODE:0=f"}, EnableMonitoring: true},
	} {
		assert.Equal(t, &good, translate(t, rdt(good)).IntelRdt)
	}
	testRefused(t, []refusedCase{
		{"path", rdt(specs.LinuxIntelRdt{ClosID: "a/b"}), `linux.intelRdt.closID: "a/b" is not the name of a class of service`, nil},
		{"up", rdt(specs.LinuxIntelRdt{ClosID: ".."}), `linux.intelRdt.closID: ".." is not the name of a class of service`, nil},
		{"reserved", rdt(specs.LinuxIntelRdt{ClosID: "info"}), `linux.intelRdt.closID: "info" is not the name of a class of service`, nil},
		{"line in class", rdt(specs.LinuxIntelRdt{ClosID: "a\nb"}), `linux.intelRdt.closID: "a\nb" is not the name of a class of service`, nil},
		{"two lines", rdt(specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f\nMB:0=1"}), `linux.intelRdt.l3CacheSchema: "L3:0=f\nMB:0=1" is more than one line, or has control characters`, nil},
		{"not L3", rdt(specs.LinuxIntelRdt{L3CacheSchema: "MB:0=1"}), `linux.intelRdt.l3CacheSchema: "MB:0=1" is not of the form L3:<id>=<value>;…`, nil},
		{"not MB", rdt(specs.LinuxIntelRdt{MemBwSchema: "L3:0=f"}), `linux.intelRdt.memBwSchema: "L3:0=f" is not of the form MB:<id>=<value>;…`, nil},
		{"no resource", rdt(specs.LinuxIntelRdt{Schemata: []string{"L3:0=f", "x"}}), `linux.intelRdt.schemata[1]: "x" is not of the form :<id>=<value>;…`, nil},
		{"empty", rdt(specs.LinuxIntelRdt{Schemata: []string{""}}), `linux.intelRdt.schemata[0]: is empty`, nil},
	})
}
