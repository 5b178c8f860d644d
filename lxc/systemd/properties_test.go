package systemd

import (
	"math"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func ptr[T any](v T) *T { return &v }

func memory(limit, swap, low int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: &low}}
}

func cpu(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }

func TestProperties(t *testing.T) {
	const infinity = uint64(math.MaxUint64)
	for name, tc := range map[string]struct {
		r       *specs.LinuxResources
		v1      bool
		version int
		want    map[string]any
	}{
		"none":                 {r: nil, want: map[string]any{}},
		"memory":               {r: memory(100, 150, 20), want: map[string]any{"MemoryMax": uint64(100), "MemorySwapMax": uint64(50), "MemoryLow": uint64(20)}},
		"no swap":              {r: memory(100, 100, 0), want: map[string]any{"MemoryMax": uint64(100), "MemorySwapMax": uint64(0)}},
		"unlimited":            {r: memory(-1, 0, -1), want: map[string]any{"MemoryMax": infinity, "MemorySwapMax": infinity, "MemoryLow": infinity}},
		"unlimited swap":       {r: memory(100, -1, 0), want: map[string]any{"MemoryMax": uint64(100), "MemorySwapMax": infinity}},
		"memory on v1":         {r: memory(100, 150, 20), v1: true, want: map[string]any{"MemoryLimit": uint64(100)}},
		"shares":               {r: cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), want: map[string]any{"CPUWeight": uint64(100)}},
		"shares on v1":         {r: cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), v1: true, want: map[string]any{"CPUShares": uint64(1024)}},
		"idle":                 {r: cpu(specs.LinuxCPU{Shares: ptr(uint64(1024)), Idle: ptr(int64(1))}), version: 252, want: map[string]any{"CPUWeight": uint64(0)}},
		"idle, old systemd":    {r: cpu(specs.LinuxCPU{Idle: ptr(int64(1))}), version: 247, want: map[string]any{}},
		"quota":                {r: cpu(specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}), version: 257, want: map[string]any{"CPUQuotaPerSecUSec": uint64(500000), "CPUQuotaPeriodUSec": uint64(100000)}},
		"quota is rounded up":  {r: cpu(specs.LinuxCPU{Quota: ptr(int64(33333))}), want: map[string]any{"CPUQuotaPerSecUSec": uint64(340000)}},
		"no quota":             {r: cpu(specs.LinuxCPU{Quota: ptr(int64(-1))}), want: map[string]any{"CPUQuotaPerSecUSec": infinity}},
		"period, old systemd":  {r: cpu(specs.LinuxCPU{Period: ptr(uint64(50000))}), version: 241, want: map[string]any{}},
		"cpus and mems":        {r: cpu(specs.LinuxCPU{Cpus: "0-2,9", Mems: "1"}), version: 257, want: map[string]any{"AllowedCPUs": []byte{7, 2}, "AllowedMemoryNodes": []byte{2}}},
		"cpus, old systemd":    {r: cpu(specs.LinuxCPU{Cpus: "0"}), version: 243, want: map[string]any{}},
		"tasks":                {r: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(7))}}, want: map[string]any{"TasksMax": uint64(7)}},
		"no tasks":             {r: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, want: map[string]any{"TasksMax": uint64(1)}},
		"no limit of tasks":    {r: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, want: map[string]any{"TasksMax": infinity}},
		"what has no property": {r: &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}}, want: map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			props, err := properties(tc.r, !tc.v1, tc.version)
			require.NoError(t, err)
			got := map[string]any{}
			for _, p := range props {
				got[p.Name] = p.Value.Value()
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestListsOfNumbersThatAreNone(t *testing.T) {
	for _, list := range []string{"x", "1-", "-1", "3-1", "0-99999999", "1,,2"} {
		_, err := properties(cpu(specs.LinuxCPU{Cpus: list}), true, 257)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, list)
		require.ErrorContains(t, err, "linux.resources.cpu.cpus", list)
	}
}
