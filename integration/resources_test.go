package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// gate is a stdin that gives nothing until it is opened, and then never ends.
type gate struct {
	once sync.Once
	open chan struct{}
	text *bytes.Reader
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

// Open lets text through.
func (g *gate) Open(text string) {
	g.text = bytes.NewReader([]byte(text))
	g.once.Do(func() { close(g.open) })
}

func (g *gate) Read(p []byte) (int, error) {
	<-g.open
	n, err := g.text.Read(p)
	if err == io.EOF {
		select {} // a terminal's user does not hang up
	}
	return n, err
}

var resources = []scenario{
	{
		name: "pause-and-resume", args: []string{"sh", "-c", "while :; do date +%s%N > /tmp/alive; done"},
		run: func(s *script) {
			s.note("pause early", s.Pause(s.ctx))
			s.create()
			s.note("pause created", s.Pause(s.ctx))
			s.start()
			s.note("resume running", s.Resume(s.ctx))
			s.note("pause", s.Pause(s.ctx))
			s.state()
			s.note("pause again", s.Pause(s.ctx))
			s.note("resume", s.Resume(s.ctx))
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.note("pause stopped", s.Pause(s.ctx))
			s.delete()
		},
		want: []string{
			"pause early: not found", "create: ok", "pause created: unknown", "start: ok", "resume running: unknown",
			"pause: ok", "state: paused", "pause again: unknown", "resume: ok", "state: running", "kill 9: ok", "exit: 137",
			"pause stopped: unknown", "delete: 137",
		},
		events: []string{"create", "start", "paused", "resumed", "exit 137", "delete 137"},
	},
	{
		name: "kill-while-paused", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			s.note("pause", s.Pause(s.ctx))
			s.kill(uint32(unix.SIGKILL))
			if s.cgroup1() && s.Runtime.Backend != "lxc" {
				// The v1 freezer holds killed processes back; crun leaves it
				// so, LXC containers are thawed, as runc's.
				assert.NoError(s.t, s.Resume(s.ctx))
			}
			s.wait()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "pause: ok", "kill 9: ok", "exit: 137", "delete: 137"},
	},
	{
		name: "update", args: forever,
		spec: []oci.SpecOpts{oci.WithMemoryLimit(64 << 20), oci.WithCPUShares(512), oci.WithPidsLimit(50)},
		run: func(s *script) {
			s.create()
			s.memoryLimit()
			s.start()
			limit := int64(96 << 20)
			s.note("update", s.Update(s.ctx, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}))
			s.memoryLimit()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
		},
		want: []string{
			"create: ok", "memory limit: 67108864", "start: ok", "update: ok", "memory limit: 100663296", "kill 9: ok", "exit: 137", "delete: 137",
		},
		events: ended("137"),
	},
	{
		name: "stats", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			m, err := s.Metrics(s.ctx)
			s.note("stats", err)
			s.checkMetrics(m)
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "stats: ok", "kill 9: ok", "exit: 137", "delete: 137"}, events: ended("137"),
	},
	{
		name: "the-default-seccomp-profile", args: []string{"sh", "-c", "grep ^Seccomp: /proc/self/status; unshare -m true 2>&1 || echo refused"},
		spec: []oci.SpecOpts{seccomp.WithDefaultProfile()},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			`stdout: "Seccomp:\t2\nunshare: unshare(0x20000): Operation not permitted\nrefused\n"`, "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "it-lives-where-its-cgroup-path-says", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			s.checkCgroup()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "kill 9: ok", "exit: 137", "delete: 137"},
	},
	{
		name: "out-of-memory",
		args: []string{"sh", "-c", "tail /dev/zero; echo tail $?; sleep 1000"},
		spec: []oci.SpecOpts{oci.WithMemoryLimit(16 << 20)},
		run: func(s *script) {
			s.create()
			s.start()
			s.awaitOut(s.stdio, "tail 137")
			if !s.Runtime.Reference {
				_, err := s.place.events.Await(s.ctx, s.ID, "oom")
				assert.NoError(s.t, err)
			}
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
		},
		want:   []string{"create: ok", "start: ok", "kill 9: ok", "exit: 137", "delete: 137"},
		events: []string{"create", "start", "oom", "exit 137", "delete 137"},
	},
}

// cgroup1 reports whether the machine's controllers are cgroup v1's.
func (s *script) cgroup1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}

// cgroupFile reads a file of the container's cgroup, as its first process's
// /proc entry gives it: the path in each version of cgroups.
func (s *script) cgroupFile(controller, v1, v2 string) string {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.Pid))
	require.NoError(s.t, err)
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		// On Proxmox the limits are on the group above that of the processes.
		f[2] = strings.TrimSuffix(f[2], "/ns")
		switch {
		case s.cgroup1() && f[1] == controller:
			data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, f[2], v1))
		case !s.cgroup1() && f[0] == "0":
			data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", f[2], v2))
		default:
			continue
		}
		require.NoError(s.t, err)
		return strings.TrimSpace(string(data))
	}
	require.Failf(s.t, "no cgroup", "%s has no line for %s", data, controller)
	return ""
}

func (s *script) memoryLimit() {
	s.t.Helper()
	s.note("memory limit", nil, s.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"))
}

// checkCgroup looks for the process below <namespace>/<id>, the path that
// containerd's clients write, in every hierarchy that the container is in. The
// path is below process 1's own, as LXC sees it: on a host that is the root,
// but the session's process 1 may be in any cgroup.
func (s *script) checkCgroup() {
	s.t.Helper()
	base := s.cgroupsOf(1)
	for hierarchy, path := range s.cgroupsOf(int(s.Pid)) {
		if hierarchy == "0:" && s.cgroup1() {
			continue // without controllers, and out of sight
		}
		want := "/" + s.World.Namespace + "/" + s.ID
		path := strings.TrimPrefix(path, base[hierarchy])
		assert.True(s.t, path == want || strings.HasPrefix(path, want+"/"), "%s: %s is not below %s", hierarchy, path, want)
	}
}

// cgroupsOf is /proc/PID/cgroup: paths by "number:controllers", without the
// slash of a root.
func (s *script) cgroupsOf(pid int) map[string]string {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	require.NoError(s.t, err)
	paths := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		paths[f[0]+":"+f[1]] = strings.TrimSuffix(f[2], "/")
	}
	return paths
}

func (s *script) checkMetrics(m any) {
	s.t.Helper()
	switch m := m.(type) {
	case *cgroup1.Metrics:
		assert.True(s.t, s.cgroup1())
		assert.EqualValues(s.t, 1, m.Pids.Current)
		assert.Positive(s.t, m.Memory.Usage.Usage)
		assert.Positive(s.t, m.CPU.Usage.Total)
	case *cgroup2.Metrics:
		assert.False(s.t, s.cgroup1())
		assert.EqualValues(s.t, 1, m.Pids.Current)
		assert.Positive(s.t, m.Memory.Usage)
		assert.Positive(s.t, m.CPU.UsageUsec)
	default:
		assert.Failf(s.t, "metrics", "of type %T", m)
	}
}
