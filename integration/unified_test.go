package integration

import (
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestExecBesideAnInitThatMadeGroups executes in a container whose init
// process has, as systemd does, moved to a group of its own and given
// controllers to the groups below: nothing can join the container's own group
// then.
func TestExecBesideAnInitThatMadeGroups(t *testing.T) {
	if !cgroupV2.has() {
		t.Skipf("this machine lacks %s", cgroupV2.name)
	}
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		ctx := within(t, time.Minute)
		c, err := w.NewContainer(ctx, rt, containerID("made-groups"), harness.Image,
			oci.WithProcessArgs("sh", "-c", `cd /sys/fs/cgroup && mkdir init && echo 1 >init/cgroup.procs &&
				echo +pids >cgroup.subtree_control && echo runs; exec sleep 1000`),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
			oci.WithMounts([]specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev"}}}))
		require.NoError(t, err)
		destroyed(t, c)
		s := &script{t: t, ctx: ctx, place: w, Container: c, stdio: &harness.Stdio{}}
		s.create()
		s.start()
		s.awaitOut(s.stdio, "runs\n")
		s.runExec("e", nil, "cat", "/proc/self/cgroup")
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()
		assert.Contains(t, s.log, `stdout e: "0::/init\n"`)
	})
}
