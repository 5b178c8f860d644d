package cgroup

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// Whatever resources an update has: they are refused, or each becomes one line
// for a file of the group itself.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		`{"memory":{"limit":1048576,"swap":2097152,"reservation":1,"disableOOMKiller":true},"pids":{"limit":-1}}`,
		`{"cpu":{"shares":2,"quota":1000,"period":1000,"burst":1,"cpus":"0-3,7","mems":"0\n1","idle":1}}`,
		`{"unified":{"memory.high":"max","../cgroup.procs":"1","a/b.c":"x","io.max":"8:0 rbps=1\n8:16 wbps=2","cgroup.procs":"0"}}`,
		`{"hugepageLimits":[{"pageSize":"2MB","limit":1},{"pageSize":"../1GB","limit":2}]}`,
		`{"network":{"classID":1,"priorities":[{"name":"lo 1\neth0","priority":2}]},"rdma":{"mlx5_0 hca_handle=1\nx":{"hcaObjects":1}}}`,
		`{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":20}],"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":0}]}}`,
		`{"devices":[{"allow":true,"type":"c","major":1,"minor":-1,"access":"rwm\n"},{"access":"rwm"}]}`,
	} {
		f.Add([]byte(s))
	}
	absent := func(string, string) (string, bool) { return "", false }
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &specs.LinuxResources{}
		if json.Unmarshal(b, r) != nil || oci.CheckResources("linux.resources", r) != nil {
			return
		}
		for _, translate := range []func(*table) ([]setting, error){
			func(tb *table) ([]setting, error) { return tb.v1(r) },
			func(tb *table) ([]setting, error) { return tb.v2(r) },
		} {
			settings, err := translate(&table{read: absent})
			if err != nil {
				continue
			}
			for _, s := range settings {
				if s.property == "" || !filepath.IsLocal(s.file) || filepath.Base(s.file) != s.file {
					t.Errorf("%q: file %q", s.property, s.file)
				}
				if _, verbatim := r.Unified[s.file]; !verbatim && strings.ContainsAny(s.value, "\n\x00") {
					t.Errorf("%q: value %q", s.property, s.value)
				}
			}
		}
		for _, rule := range r.Devices {
			if strings.ContainsAny(deviceRule(rule), "\n\x00") || strings.Count(deviceRule(rule), " ") != 2 {
				t.Errorf("rule %q", deviceRule(rule))
			}
		}
	})
}
