//lint:file-ignore SA1019 deprecated properties are refused, not forgotten

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecResources is about linux.resources, in the files of the container's
// groups, in both versions of cgroups.
func TestSpecResources(t *testing.T) {
	runRows(t, slices.Concat(resourceRows, deviceRuleRows, blockRows))
}

// noFile marks a property that a version of cgroups has no file for.
const noFile = ""

// wants is what a file of the container's group has: of a v1 controller, or in
// v2.
type wants struct{ controller, v1, value1, v2, value2 string }

// limitRow sets resources and looks at files. In a version of cgroups that has
// no file for it the runtime must say so.
func limitRow(name, field string, set func(r *specs.LinuxResources), files ...wants) row {
	return row{
		name: name, fields: []string{"linux.resources." + field},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Devices: s.Linux.Resources.Devices}
			set(s.Linux.Resources)
		},
		update: func(_ *shown, r *specs.LinuxResources) { set(r) },
		look: func(x *shown) {
			for _, w := range files {
				file, want := w.v2, w.value2
				if x.cgroup1() {
					file, want = w.v1, w.value1
				}
				got := x.cgroupFile(w.controller, w.v1, w.v2)
				assert.Contains(x.t, strings.Split(got, "\n"), want, file)
			}
		},
	}
}

func (r row) with(lacking string, needs ...need) row {
	r.needs, r.lacking = append(r.needs, needs...), lacking
	return r
}

var resourceRows = []row{
	limitRow("memory-limit", "memory.limit", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}
	}, wants{"memory", "memory.limit_in_bytes", "100663296", "memory.max", "100663296"}),
	limitRow("memory-reservation", "memory.reservation", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20)), Reservation: ptr(int64(48 << 20))}
	}, wants{"memory", "memory.soft_limit_in_bytes", "50331648", "memory.low", "50331648"}),
	limitRow("memory-swap", "memory.swap", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20)), Swap: ptr(int64(128 << 20))}
	}, wants{"memory", "memory.memsw.limit_in_bytes", "134217728", "memory.swap.max", "33554432"}).with("linux.resources.memory.swap", swap),
	limitRow("memory-swap-none", "memory.swap", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20)), Swap: ptr(int64(96 << 20))}
	}, wants{"memory", "memory.memsw.limit_in_bytes", "100663296", "memory.swap.max", "0"}).with("linux.resources.memory.swap", swap),
	limitRow("memory-kernel-tcp", "memory.kernelTCP", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{KernelTCP: ptr(int64(32 << 20))}
	}, wants{"memory", "memory.kmem.tcp.limit_in_bytes", "33554432", noFile, ""}).with("linux.resources.memory.kernelTCP", cgroupV1),
	limitRow("memory-swappiness", "memory.swappiness", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Swappiness: ptr(uint64(17))}
	}, wants{"memory", "memory.swappiness", "17", noFile, ""}).with("linux.resources.memory.swappiness", cgroupV1),
	limitRow("memory-oom-killer", "memory.disableOOMKiller", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20)), DisableOOMKiller: ptr(true)}
	}, wants{"memory", "memory.oom_control", "oom_kill_disable 1", noFile, ""}).with("linux.resources.memory.disableOOMKiller", cgroupV1),
	withFlaw(upTo("1.21", "refuses it").on(cgroupV2), limitRow("memory-hierarchy", "memory.useHierarchy", func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{UseHierarchy: ptr(true)}
	}, wants{"memory", "memory.use_hierarchy", "1", "memory.max", "max"})),
	{
		name: "memory-kernel", fields: []string{"linux.resources.memory.kernel"}, refused: "linux.resources.memory.kernel",
		flaw: upTo("1.21", "writes it where the kernel ignores it"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Kernel: ptr(int64(32 << 20))}
		},
	},
	{
		name: "memory-check-before-update", fields: []string{"linux.resources.memory.checkBeforeUpdate"}, crun: "1.9",
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}
		},
		look: func(x *shown) { // less than what is in use: nothing is killed, and the limit stays
			err := x.Update(x.ctx, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(4096)), CheckBeforeUpdate: ptr(true)}})
			assert.Error(x.t, err)
			assert.Equal(x.t, "100663296", x.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"))
			assert.Equal(x.t, "0", x.inside("sh", "-c", "echo $?")[:1])
		},
	},
	withFlaw(upTo("1.21", "has an older curve of weights").on(cgroupV2), limitRow("cpu-shares", "cpu.shares", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512))}
	}, wants{"cpu", "cpu.shares", "512", "cpu.weight", "59"})),
	limitRow("cpu-quota", "cpu.quota", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Quota: ptr(int64(30000))}
	}, wants{"cpu", "cpu.cfs_quota_us", "30000", "cpu.max", "30000 100000"}),
	limitRow("cpu-period", "cpu.period", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Quota: ptr(int64(30000)), Period: ptr(uint64(50000))}
	}, wants{"cpu", "cpu.cfs_period_us", "50000", "cpu.max", "30000 50000"}),
	sinceCrun("1.9", limitRow("cpu-burst", "cpu.burst", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Quota: ptr(int64(30000)), Burst: ptr(uint64(20000))}
	}, wants{"cpu", "cpu.cfs_burst_us", "20000", "cpu.max.burst", "20000"})),
	limitRow("cpu-idle", "cpu.idle", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Idle: ptr(int64(1))}
	}, wants{"cpu", "cpu.idle", "1", "cpu.idle", "1"}),
	limitRow("cpu-realtime-period", "cpu.realtimePeriod", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{RealtimePeriod: ptr(uint64(900000))}
	}, wants{"cpu", "cpu.rt_period_us", "900000", noFile, ""}).with("linux.resources.cpu.realtimePeriod", cgroupV1, controllerHas("cpu/cpu.rt_period_us")),
	limitRow("cpu-realtime-runtime", "cpu.realtimeRuntime", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{RealtimeRuntime: ptr(int64(0))}
	}, wants{"cpu", "cpu.rt_runtime_us", "0", noFile, ""}).with("", cgroupV1, controllerHas("cpu/cpu.rt_runtime_us")),
	limitRow("cpu-cpus", "cpu.cpus", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Cpus: "1"}
	}, wants{"cpuset", "cpuset.cpus", "1", "cpuset.cpus", "1"}).with("linux.resources.cpu.cpus", twoCPUs),
	limitRow("cpu-mems", "cpu.mems", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Mems: "0"}
	}, wants{"cpuset", "cpuset.mems", "0", "cpuset.mems", "0"}),
	limitRow("cpu-mems-of-the-second-node", "cpu.mems", func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Mems: "1"}
	}, wants{"cpuset", "cpuset.mems", "1", "cpuset.mems", "1"}).with("linux.resources.cpu.mems", twoNodes),
	limitRow("pids-limit", "pids.limit", func(r *specs.LinuxResources) {
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(77))}
	}, wants{"pids", "pids.max", "77", "pids.max", "77"}),
	withFlaw(upTo("1.8.1", "writes -1, which the kernel refuses"), limitRow("pids-unlimited", "pids.limit", func(r *specs.LinuxResources) {
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(-1))}
	}, wants{"pids", "pids.max", "max", "pids.max", "max"})),
	limitRow("hugepages", "hugepageLimits", func(r *specs.LinuxResources) {
		r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
	}, wants{"hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304", "hugetlb.2MB.max", "4194304"}).
		with("linux.resources.hugepageLimits[0]", controller("hugetlb", "hugetlb")),
	limitRow("network-class", "network.classID", func(r *specs.LinuxResources) {
		r.Network = &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001))}
	}, wants{"net_cls", "net_cls.classid", "1048577", noFile, ""}).
		with("linux.resources.network.classID", cgroupV1, controller("net_cls", "-")),
	limitRow("network-priorities", "network.priorities", func(r *specs.LinuxResources) {
		r.Network = &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 3}}}
	}, wants{"net_prio", "net_prio.ifpriomap", "lo 3", noFile, ""}).
		with("linux.resources.network.priorities", cgroupV1, controller("net_prio", "-")),
	limitRow("rdma", "rdma", func(r *specs.LinuxResources) {
		r.Rdma = map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}}
	}, wants{"rdma", "rdma.max", "mlx5_0 hca_handle=3 hca_object=4", "rdma.max", "mlx5_0 hca_handle=3 hca_object=4"}).
		with(`linux.resources.rdma["mlx5_0"]`, controller("rdma", "rdma"), device("/sys/class/infiniband/mlx5_0")),
	limitRow("unified", "unified", func(r *specs.LinuxResources) {
		r.Unified = map[string]string{"memory.high": "50331648"}
	}, wants{"memory", noFile, "", "memory.high", "50331648"}).with("linux.resources.unified", cgroupV2),
	{
		name: "cgroups-path", fields: []string{"linux.cgroupsPath"},
		spec: func(x *shown, s *specs.Spec) {
			s.Linux.CgroupsPath = "/" + x.place.Namespace + "/deep/er/" + lastWord(s.Linux.CgroupsPath)
			x.t.Cleanup(func() { // parents are nobody's: no runtime removes them
				points, err := harness.Hierarchies()
				require.NoError(x.t, err)
				for _, point := range points {
					dir := filepath.Join(point, x.place.Namespace, "deep")
					if !exists(dir) {
						continue
					}
					assert.NoError(x.t, os.Remove(filepath.Join(dir, "er")))
					assert.NoError(x.t, os.Remove(dir))
				}
			})
		},
		look: func(x *shown) {
			base := x.cgroupsOf(1)
			for hierarchy, path := range x.cgroupsOf(int(x.Pid)) {
				if hierarchy == "0:" && x.cgroup1() {
					continue
				}
				want := "/" + x.World.Namespace + "/deep/er/" + x.ID
				got := strings.TrimPrefix(path, base[hierarchy])
				assert.True(x.t, got == want || strings.HasPrefix(got, want+"/"), "%s: %s is not below %s", hierarchy, got, want)
			}
		},
	},
}

func lastWord(path string) string { return path[strings.LastIndexAny(path, "/:")+1:] }

func sinceCrun(version string, r row) row {
	r.crun = version
	return r
}

var deviceRuleRows = []row{
	{
		name: "device-rules", fields: []string{
			"linux.resources.devices[].allow", "linux.resources.devices[].type", "linux.resources.devices[].major",
			"linux.resources.devices[].minor", "linux.resources.devices[].access",
		},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
				{Allow: false, Access: "rwm"},
				{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(237)), Access: "r"},
				{Allow: true, Type: "b", Major: ptr(int64(7)), Access: "rm"},
				{Allow: true, Type: "b", Major: ptr(int64(43)), Access: "rwm"},
				{Allow: false, Type: "b", Major: ptr(int64(43)), Access: "r"},
			}
			s.Linux.Devices = append(s.Linux.Devices,
				specs.LinuxDevice{Path: "/dev/control", Type: "c", Major: 10, Minor: 237}, specs.LinuxDevice{Path: "/dev/other", Type: "c", Major: 10, Minor: 236},
				specs.LinuxDevice{Path: "/dev/loop1", Type: "b", Major: 7, Minor: 1}, specs.LinuxDevice{Path: "/dev/nbd1", Type: "b", Major: 43, Minor: 1})
		},
		args: []string{"sh", "-c", "cd /dev; for d in control loop1 other nbd1; do (: < $d) 2>/dev/null && echo reads $d; (: >> $d) 2>/dev/null && echo writes $d; done; exit 0"},
		want: "reads control\nreads loop1\n",
	},
	{
		name: "device-rule-hole", fields: []string{"linux.resources.devices[].minor"}, needs: []need{cgroupV2}, lacking: "linux.resources.devices[2]",
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
				{Allow: false, Access: "rwm"},
				{Allow: true, Type: "b", Major: ptr(int64(7)), Access: "rm"},
				{Allow: false, Type: "b", Major: ptr(int64(7)), Minor: ptr(int64(2)), Access: "r"},
			}
			s.Linux.Devices = append(s.Linux.Devices,
				specs.LinuxDevice{Path: "/dev/loop1", Type: "b", Major: 7, Minor: 1}, specs.LinuxDevice{Path: "/dev/loop2", Type: "b", Major: 7, Minor: 2})
		},
		args: []string{"sh", "-c", "cd /dev; for d in loop1 loop2; do (: < $d) 2>/dev/null && echo reads $d; done; exit 0"}, want: "reads loop1\n",
	},
	{
		name: "every-device", fields: []string{"linux.resources.devices[].allow"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/loop2", Type: "b", Major: 7, Minor: 2})
		},
		args: []string{"sh", "-c", ": < /dev/loop2 && echo reads"}, want: "reads\n",
	},
	{
		name: "device-rule-wrong", fields: []string{"linux.resources.devices[].type"}, flaw: upTo("1.21", leavesGroups), refused: `linux.resources.devices[1].type: "x" is not one of`,
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices[:1:1], specs.LinuxDeviceCgroup{Allow: true, Type: "x", Access: "r"})
		},
	},
}

// disk is a block device of the machine that can be throttled.
func disk(t *testing.T) (major, minor int64) {
	t.Helper()
	for _, file := range glob("/sys/block/*/dev") {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		if _, err := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err == nil {
			return major, minor
		}
	}
	t.Fatal("no block device")
	return 0, 0
}

var blockRows = []row{
	throttleRow("throttle-read-bps", "throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleReadBpsDevice }),
	throttleRow("throttle-write-bps", "throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleWriteBpsDevice }),
	throttleRow("throttle-read-iops", "throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleReadIOPSDevice }),
	throttleRow("throttle-write-iops", "throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleWriteIOPSDevice }),
	withFlaw(byDesign("knows only the files of v1 that came before BFQ").on(cgroupV1), limitRow("block-weight", "blockIO.weight", func(r *specs.LinuxResources) {
		r.BlockIO = &specs.LinuxBlockIO{Weight: ptr(uint16(300))}
	}, wants{"blkio", "blkio.bfq.weight", "300", "io.bfq.weight", "default 300"}).
		with(lackingOnV1("linux.resources.blockIO.weight"), controllerHas("blkio/blkio.bfq.weight", "io.bfq.weight"))),
	withFlaw(byDesign("knows only the files of v1 that came before BFQ").on(cgroupV1), limitRow("block-weight-of-a-device", "blockIO.weightDevice", func(r *specs.LinuxResources) {
		r.BlockIO = &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 7, Minor: 1}, Weight: ptr(uint16(300))}}}
	}, wants{"blkio", "blkio.bfq.weight_device", "7:1 300", "io.bfq.weight", "7:1 300"}).
		with("linux.resources.blockIO.weightDevice[0].weight", controllerHas("blkio/blkio.bfq.weight_device", "io.bfq.weight"), bfq)),
	limitRow("block-leaf-weight", "blockIO.leafWeight", func(r *specs.LinuxResources) {
		r.BlockIO = &specs.LinuxBlockIO{LeafWeight: ptr(uint16(300))}
	}, wants{"blkio", "blkio.leaf_weight", "300", noFile, ""}).
		with("linux.resources.blockIO.leafWeight", cgroupV1, controllerHas("blkio/blkio.leaf_weight")),
}

func throttleRow(name, field, v1, key string, list func(*specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice) row {
	set := func(x *shown, r *specs.LinuxResources) {
		major, minor := disk(x.t)
		d := specs.LinuxThrottleDevice{Rate: 1 << 20}
		d.Major, d.Minor = major, minor
		r.BlockIO = &specs.LinuxBlockIO{}
		*list(r.BlockIO) = []specs.LinuxThrottleDevice{d}
	}
	return row{
		name: name, fields: []string{"linux.resources.blockIO." + field},
		spec:   func(x *shown, s *specs.Spec) { set(x, s.Linux.Resources) },
		update: set,
		look: func(x *shown) {
			major, minor := disk(x.t)
			number := fmt.Sprintf("%d:%d ", major, minor)
			got := x.cgroupFile("blkio", v1, "io.max")
			if x.cgroup1() {
				assert.Equal(x.t, number+"1048576", got)
				return
			}
			assert.Contains(x.t, got, number)
			assert.Contains(x.t, strings.Fields(got), key+"=1048576")
		},
	}
}

// lackingOnV1 is refused with this text where v1 has no such limit; v2 has
// another file for it (io.weight).
func lackingOnV1(text string) string {
	if cgroupV2.has() {
		return ""
	}
	return text
}
