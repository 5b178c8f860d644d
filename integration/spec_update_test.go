package integration

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSpecUpdate changes the limits of a container that runs.
func TestSpecUpdate(t *testing.T) { runRows(t, slices.Concat(updateRows, updatedRows())) }

// updatedRows are the rows about limits once more: what the spec has in them
// comes by an update.
func updatedRows() (rows []row) {
	for _, r := range slices.Concat(resourceRows, blockRows) {
		if r.update == nil || lacks(r.needs) != "" && r.lacking == "" {
			continue
		}
		rows = append(rows, r.updated())
	}
	return rows
}

func (r row) updated() row {
	missing := lacks(r.needs)
	return row{
		name: "update-" + r.name, fields: r.fields, crun: r.crun, flaw: r.flaw,
		look: func(x *shown) {
			resources := &specs.LinuxResources{}
			r.update(x, resources)
			err := x.Update(x.ctx, resources)
			if missing == "" {
				require.NoError(x.t, err)
				r.look(x)
				return
			}
			x.t.Logf("this machine lacks %s: that must be said", missing)
			if x.Runtime.Backend == "lxc" {
				assert.ErrorContains(x.t, err, r.lacking)
			}
		},
	}
}

// useDevices are what every container has, and a terminal.
const useDevices = ": </dev/null && : >/dev/null && head -c 1 /dev/zero | wc -c && head -c 1 /dev/urandom | wc -c && mknod /tmp/n c 1 3 && echo made; rm /tmp/n"

var updateRows = []row{
	{
		name: "update", fields: []string{"linux.resources.memory.limit", "linux.resources.cpu.shares", "linux.resources.cpu.quota", "linux.resources.pids.limit"},
		look: func(x *shown) {
			require.NoError(x.t, x.Update(x.ctx, &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(80 << 20))}, Pids: &specs.LinuxPids{Limit: ptr(int64(44))},
				CPU: &specs.LinuxCPU{Shares: ptr(uint64(256)), Quota: ptr(int64(20000)), Period: ptr(uint64(40000))},
			}))
			assert.Equal(x.t, "83886080", x.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"))
			assert.Equal(x.t, "44", x.cgroupFile("pids", "pids.max", "pids.max"))
			if x.cgroup1() {
				assert.Equal(x.t, "256", x.cgroupFile("cpu", "cpu.shares", ""))
				assert.Equal(x.t, "20000", x.cgroupFile("cpu", "cpu.cfs_quota_us", ""))
			} else {
				assert.Equal(x.t, "20000 40000", x.cgroupFile("cpu", "", "cpu.max"))
			}
		},
	},
	{
		// The CRI plugin sends every update with the rules of the spec.
		name: "update-with-the-devices-of-the-spec", fields: []string{"linux.resources.devices"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
		},
		look: func(x *shown) {
			want := x.inside("sh", "-c", useDevices)
			assert.Equal(x.t, "1\n1\nmade\n", want)
			require.NoError(x.t, x.Update(x.ctx, &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, CPU: &specs.LinuxCPU{Shares: ptr(uint64(256))},
			}))
			assert.Equal(x.t, want, x.inside("sh", "-c", useDevices))
		},
	},
	{
		name: "update-of-devices", fields: []string{"linux.resources.devices"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/loop1", Type: "b", Major: 7, Minor: 1})
		},
		look: func(x *shown) {
			const read = ": </dev/loop1 && echo reads"
			assert.Contains(x.t, x.inside("sh", "-c", read), "Operation not permitted")
			for allow, want := range map[bool]string{true: "reads\n", false: "sh: can't open /dev/loop1: Operation not permitted\n"} {
				require.NoError(x.t, x.Update(x.ctx, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
					{Allow: false, Access: "rwm"}, {Allow: allow, Type: "b", Major: ptr(int64(7)), Minor: ptr(int64(1)), Access: "rw"},
				}}))
				assert.Equal(x.t, want, x.inside("sh", "-c", read))
				assert.Equal(x.t, "1\n1\nmade\n", x.inside("sh", "-c", useDevices))
			}
		},
	},
}
