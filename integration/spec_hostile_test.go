package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// hostile is a spec whose author would like something to happen on the host.
type hostile struct {
	name string
	// spec puts evil into a property: text that would be more lines of an LXC
	// configuration or fstab, if it got into one as it is. x.dir/run is a
	// program that leaves a mark.
	spec func(x *shown, s *specs.Spec, evil string)
	// refused says that the LXC backend must not run it; otherwise it must,
	// and the process must print want.
	refused bool
	flaw    flaw // what crun does instead, which others of its tests would see
	args    []string
	want    string
}

var hostiles = []hostile{
	{
		name: "environment", args: []string{"sh", "-c", `printf %s "$EVIL" | wc -l`}, want: "4\n",
		spec: func(_ *shown, s *specs.Spec, evil string) { s.Process.Env = append(s.Process.Env, "EVIL="+evil) },
	},
	{
		name: "name-of-a-variable", args: []string{"sh", "-c", "env | wc -l > /dev/null; echo runs"}, want: "runs\n",
		spec: func(_ *shown, s *specs.Spec, evil string) { s.Process.Env = append(s.Process.Env, evil+"=x") },
	},
	{
		name: "arguments", args: []string{"sh", "-c", `printf %s "$0" | wc -l`, "evil"}, want: "4\n",
		spec: func(_ *shown, s *specs.Spec, evil string) { s.Process.Args[3] = evil },
	},
	{
		name: "working-directory", args: []string{"sh", "-c", `pwd | wc -l`}, want: "5\n",
		spec: func(_ *shown, s *specs.Spec, evil string) {
			s.Process.Cwd = "/tmp/" + strings.ReplaceAll(evil, "/", "_")
		},
	},
	{name: "hostname", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) { s.Hostname = "a" + evil }},
	{
		name: "hostname-with-a-quote", args: []string{"hostname"}, want: "a'\" #b\n",
		spec: func(_ *shown, s *specs.Spec, _ string) { s.Hostname = "a'\" #b" },
	},
	{
		name: "annotations", args: []string{"echo", "runs"}, want: "runs\n",
		spec: func(_ *shown, s *specs.Spec, evil string) {
			s.Annotations = map[string]string{"value": evil, "key" + evil: "x"}
		},
	},
	{
		name: "mount-source", args: []string{"cat", "/bound/file"}, want: "in the source\n",
		spec: func(x *shown, s *specs.Spec, evil string) {
			source := filepath.Join(x.dir, "a b\t\\040 "+strings.ReplaceAll(evil, "/", "_"))
			require.NoError(x.t, os.Mkdir(source, 0o755))
			require.NoError(x.t, os.WriteFile(filepath.Join(source, "file"), []byte("in the source\n"), 0o644))
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bound", Type: "bind", Source: source, Options: []string{"bind"}})
		},
	},
	{
		name: "mount-destination", args: []string{"sh", "-c", "printf %s /tmp/d* | wc -l; grep -c ' /data ' /proc/self/mountinfo || true"}, want: "4\n0\n",
		spec: func(_ *shown, s *specs.Spec, evil string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/d" + strings.ReplaceAll(evil, "/", "_"), Type: "tmpfs", Source: "tmpfs"})
		},
	},
	{name: "mount-type", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs" + evil, Source: "tmpfs"})
	}},
	{name: "mount-option", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m" + evil}})
	}},
	{
		name: "mount-destination-climbs", args: []string{"sh", "-c", "grep -c ' /climbs/data ' /proc/self/mountinfo"}, want: "1\n",
		spec: func(_ *shown, s *specs.Spec, _ string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/a/../../../../climbs/x/../data", Type: "tmpfs", Source: "tmpfs"})
		},
	},
	{
		name: "mount-on-what-is-outside", args: []string{"sh", "-c", "ls $OUTSIDE/data"}, want: "",
		spec: func(_ *shown, s *specs.Spec, _ string) {
			s.Process.Env = append(s.Process.Env, "OUTSIDE="+harness.Outside())
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/../../.." + harness.Outside() + "/data", Type: "tmpfs", Source: "tmpfs"})
		},
	},
	{
		name: "device-climbs", args: []string{"sh", "-c", "stat -c %F $OUTSIDE/data/device"}, want: "fifo\n",
		spec: func(_ *shown, s *specs.Spec, _ string) {
			s.Process.Env = append(s.Process.Env, "OUTSIDE="+harness.Outside())
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/../../.." + harness.Outside() + "/data/device", Type: "p"})
		},
	},
	{
		name: "masked-path-climbs", args: []string{"echo", "runs"}, want: "runs\n",
		spec: func(_ *shown, s *specs.Spec, _ string) {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/../../.."+harness.Outside()+"/file")
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/../../.."+harness.Outside()+"/data")
		},
	},
	{name: "sysctl-climbs", refused: true, spec: func(_ *shown, s *specs.Spec, _ string) {
		s.Linux.Sysctl = map[string]string{"net/../kernel/hostname": "evil"}
	}},
	{name: "sysctl-value", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "evil" + evil}
	}},
	{name: "cgroup-path", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) { s.Linux.CgroupsPath += evil }},
	{
		name: "cgroup-path-climbs", refused: true,
		spec: func(x *shown, s *specs.Spec, _ string) {
			s.Linux.CgroupsPath = "/../../.." + s.Linux.CgroupsPath + "/../" + lastWord(s.Linux.CgroupsPath)
		},
	},
	{name: "namespace-path", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		setNamespace(s, specs.NetworkNamespace, "/proc/1/ns/net"+evil)
	}},
	{name: "rlimit", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE" + evil, Soft: 1, Hard: 1}}
	}},
	{name: "apparmor", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) { s.Process.ApparmorProfile = "unconfined" + evil }},
	{name: "selinux", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) { s.Process.SelinuxLabel = "a:b:c:d" + evil }},
	{name: "rootfs-propagation", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) { s.Linux.RootfsPropagation = "private" + evil }},
	{name: "device-access", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "r" + evil})
	}},
	{name: "cpus", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0" + evil}
	}},
	{name: "unified", refused: true, flaw: upTo("1.21", leavesGroups), spec: func(_ *shown, s *specs.Spec, _ string) {
		s.Linux.Resources.Unified = map[string]string{"../../cgroup.procs": "1"}
	}},
	{name: "hugepages", refused: true, flaw: upTo("1.21", leavesGroups), spec: func(_ *shown, s *specs.Spec, _ string) {
		s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "../../cgroup.procs", Limit: 1}}
	}},
	{name: "seccomp-architecture", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.Arch("SCMP_ARCH_X86_64" + evil)}}
	}},
	{name: "network-device", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {Name: "../../x" + evil}}
	}},
	{name: "class-of-resctrl", refused: true, spec: func(_ *shown, s *specs.Spec, _ string) {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../../../../tmp/evil"}
	}},
	{name: "memory-policy", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0" + evil}
	}},
	{name: "time-offset", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		setNamespace(s, specs.TimeNamespace, "")
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime" + evil: {Secs: 1}}
	}},
	{name: "exec-affinity", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0" + evil}
	}},
	{name: "seccomp-listener", refused: true, spec: func(_ *shown, s *specs.Spec, evil string) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: "/run/no" + evil, Syscalls: []specs.LinuxSyscall{{Names: []string{"getsid"}, Action: specs.ActNotify}},
		}
	}},
	{name: "hook", refused: true, spec: func(x *shown, s *specs.Spec, evil string) {
		addHook(s, "createRuntime", specs.Hook{Path: filepath.Join(x.dir, "no") + evil})
	}},
}

// TestHostileSpecs runs each with both backends: nothing may happen outside.
func TestHostileSpecs(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, h := range hostiles {
			t.Run(h.name, func(t *testing.T) { h.test(t, w, rt) })
		}
	})
}

const leavesGroups = "leaves its groups behind when it fails"

func (h hostile) test(t *testing.T, w *place, rt harness.Runtime) {
	h.flaw.skip(t, rt)
	leaveNothing(t, w)
	before, touched := outside(t)
	x := h.container(t, w, rt)
	destroyed(t, x.Container)
	err := x.Create(x.ctx, x.stdio)
	if err == nil {
		_, err = x.Start(x.ctx, "")
	}
	if err == nil {
		status, _, err := x.Wait(x.ctx, "")
		require.NoError(t, err)
		require.NoError(t, x.stdio.Wait(x.ctx))
		if rt.Backend == "lxc" {
			assert.Zero(t, status, "stderr: %s", x.stdio.Err())
			assert.Equal(t, h.want, x.stdio.Out())
		}
	}
	if rt.Backend == "lxc" {
		assert.Equal(t, h.refused, err != nil, "%v", err)
	}
	assert.NoFileExists(t, filepath.Join(x.dir, "ran"), "a command of the spec's author on the host")
	assert.Equal(t, before, tree(t), "the outside")
	assert.Empty(t, touched(), "events in the outside")
}

func (h hostile) container(t *testing.T, w *place, rt harness.Runtime) *shown {
	x := &shown{script: &script{t: t, ctx: within(t, time.Minute), place: w, stdio: &harness.Stdio{}}, dir: t.TempDir()}
	require.NoError(t, os.Chmod(x.dir, 0o755))
	run := filepath.Join(x.dir, "run")
	require.NoError(t, os.WriteFile(run, []byte("#!/bin/sh\ntouch "+x.dir+"/ran\n"), 0o755))
	evil := "\nlxc.hook.pre-start = " + run + "\nlxc.hook.version = 1\nlxc.mount.entry = " + harness.Outside() + " data none bind,create=dir 0 0\n"
	change := func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		h.spec(x, s, evil)
		return nil
	}
	args := h.args
	if args == nil {
		args = []string{"true"}
	}
	c, err := w.NewContainer(x.ctx, rt, containerID(h.name), harness.Image, oci.WithProcessArgs(append([]string{}, args...)...), change)
	require.NoError(t, err)
	x.Container = c
	return x
}

// TestHostileVolumes mounts below a volume in which a component of the way is
// exchanged with a symlink to the outside, over and over, while Create runs.
func TestHostileVolumes(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, component := range []string{"a", "a/b", "a/b/c", "a/b/c/d"} {
			for kind, link := range map[string]string{
				"absolute": harness.Outside() + "/data", "climbing": strings.Repeat("../", 20) + harness.Outside()[1:] + "/data",
				"file": harness.Outside() + "/file", "magic": "/proc/self/cwd",
			} {
				t.Run(strings.ReplaceAll(component, "/", "-")+"-"+kind, func(t *testing.T) { hostileVolume(t, w, rt, component, link) })
			}
		}
	})
}

func hostileVolume(t *testing.T, w *place, rt harness.Runtime, component, link string) {
	leaveNothing(t, w)
	before, touched := outside(t)
	volume := t.TempDir()
	require.NoError(t, os.Chmod(volume, 0o777))
	require.NoError(t, os.MkdirAll(filepath.Join(volume, "a/b/c/d"), 0o755))
	other := filepath.Join(volume, "link")
	require.NoError(t, os.Symlink(link, other))
	stop := exchange(t, filepath.Join(volume, component), other)
	defer stop()
	source := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.WriteFile(source, nil, 0o644))
	mounts := []specs.Mount{
		{Destination: "/vol", Type: "bind", Source: volume, Options: []string{"bind"}},
		{Destination: "/vol/a/b/c/d", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}},
		{Destination: "/vol/a/b/c/d/made/file", Type: "bind", Source: source, Options: []string{"bind"}},
		{Destination: "/vol/a/b/c/d/made/file", Type: "bind", Source: source, Options: []string{"bind", "ro"}},
	}
	ctx := within(t, time.Minute)
	for range 4 {
		c, err := w.NewContainer(ctx, rt, containerID("volume"), harness.Image, oci.WithProcessArgs("sleep", "1000"), oci.WithMounts(mounts))
		require.NoError(t, err)
		if err := c.Create(ctx, &harness.Stdio{Null: true}); err != nil {
			t.Logf("refused: %v", err) // what the race does to the container is its author's affair
		}
		require.NoError(t, c.Destroy(ctx))
	}
	stop()
	assert.Equal(t, before, tree(t), "the outside")
	assert.Empty(t, touched(), "events in the outside")
}

// exchange swaps two names as fast as it can, until it is stopped.
func exchange(t *testing.T, a, b string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("exchange: %v", err)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}
