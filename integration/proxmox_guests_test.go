package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// noGuestLeft fails the test if the node has other guests after it than before.
func noGuestLeft(t *testing.T) {
	t.Helper()
	before := guests(t)
	t.Cleanup(func() { assert.Equal(t, before, guests(t), "guests of the node") })
}

func guests(t *testing.T) map[int]host.Guest {
	t.Helper()
	all, err := host.Guests()
	require.NoError(t, err)
	return all
}

// tool runs one of Proxmox's commands, which must succeed.
func tool(t *testing.T, w *place, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(within(t, time.Minute), filepath.Join(w.Node.Sbin, argv[0]), argv[1:]...).CombinedOutput()
	require.NoError(t, err, "%q: %s", argv, out)
	return string(out)
}

// foreign makes a CT that is an operator's own, and removes it after the test.
func foreign(t *testing.T, w *place, vmid int) {
	t.Helper()
	root, archive := t.TempDir(), filepath.Join(t.TempDir(), "empty.tar")
	require.NoError(t, os.WriteFile(archive, make([]byte, 10240), 0o600))
	id := strconv.Itoa(vmid)
	tool(t, w, "pct", "create", id, archive, "--rootfs", root, "--ostype", "unmanaged", "--arch", "amd64", "--unprivileged", "0",
		"--hostname", "operators-own", "--tags", "precious")
	t.Cleanup(func() {
		cmd := exec.Command(filepath.Join(w.Node.Sbin, "pct"), "destroy", id)
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, string(out))
	})
}

// vm is the configuration of a virtual machine.
func vm(t *testing.T, vmid int) string {
	t.Helper()
	path := filepath.Join(host.EtcPVE, "qemu-server", fmt.Sprintf("%d.conf", vmid))
	require.NoError(t, os.WriteFile(path, []byte("memory: 2048\nname: a-vm\n"), 0o640))
	t.Cleanup(func() { assert.NoError(t, os.Remove(path)) })
	return path
}

func confText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// vmidOf is the VMID of a container, by its record.
func vmidOf(t *testing.T, w *place, id string) int {
	t.Helper()
	m := regexp.MustCompile(`"vmid": (\d+)`).FindStringSubmatch(confText(t, filepath.Join("/run/nexcage", w.Namespace, id, "state.json")))
	require.Len(t, m, 2, "vmid in state.json")
	vmid, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return vmid
}

// Twenty shims want a VMID at the same time, in a range where an operator has a
// CT and a VM.
func TestTwentyCreatesAtOnceOnProxmox(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	first := nextVMID(t, w)
	foreign(t, w, first+3)
	machine := vm(t, first+7)
	before := []string{confText(t, host.ConfPath(first+3)), confText(t, machine)}

	const containers = 20
	all := make([]*harness.Container, containers)
	ctx := within(t, 2*time.Minute)
	g := errgroup.Group{}
	for i := range all {
		c, err := w.NewContainer(ctx, harness.LXC(), containerID(fmt.Sprint("twenty-", i)), harness.Image, oci.WithProcessArgs(forever...))
		require.NoError(t, err)
		destroyed(t, c)
		all[i] = c
	}
	for _, c := range all {
		g.Go(func() error { return c.Create(ctx, &harness.Stdio{Null: true}) })
	}
	require.NoError(t, g.Wait())
	seen := map[int]bool{first + 3: true, first + 7: true}
	for _, c := range all {
		vmid := vmidOf(t, w, c.ID)
		assert.False(t, seen[vmid], "VMID %d twice", vmid)
		seen[vmid] = true
		assert.Contains(t, confText(t, host.ConfPath(vmid)), fmt.Sprintf("/%s/%s-%d.conf", c.ID, host.Node(), vmid))
	}
	assert.Len(t, guests(t), containers+2)
	for _, c := range all {
		_, err := c.Delete(ctx, "")
		require.NoError(t, err)
	}
	assert.Equal(t, before, []string{confText(t, host.ConfPath(first+3)), confText(t, machine)}, "the operator's guests")
	assert.Len(t, guests(t), 2)
}

// nextVMID is what the next container would get: where its predecessor was.
func nextVMID(t *testing.T, w *place) int {
	t.Helper()
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.LXC(), containerID("next"), harness.Image, oci.WithProcessArgs(forever...))
	require.NoError(t, err)
	require.NoError(t, c.Create(ctx, &harness.Stdio{Null: true}))
	vmid := vmidOf(t, w, c.ID)
	require.NoError(t, c.Destroy(ctx))
	return vmid + 1
}

// The whole life of a container is one call of pct: each costs 0.6 s.
func TestPctIsCalledOnceInALife(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	before, err := w.Node.Calls()
	require.NoError(t, err)
	require.NoError(t, wholeLife(within(t, time.Minute), w, harness.LXC(), containerID("calls")))
	after, err := w.Node.Calls()
	require.NoError(t, err)
	require.Len(t, after, len(before)+1)
	assert.Equal(t, []string{"pct", "start"}, after[len(before)].Argv[:2])
}

// An operator's command on a CT of ours is the container's own event.
func TestOperatorSeesAndManagesTheCT(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	ctx := within(t, time.Minute)
	c, err := w.NewContainer(ctx, harness.LXC(), containerID("operator"), harness.Image, oci.WithProcessArgs("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 1; done"),
		oci.WithMemoryLimit(64<<20))
	require.NoError(t, err)
	destroyed(t, c)
	require.NoError(t, c.Create(ctx, &harness.Stdio{Null: true}))
	_, err = c.Start(ctx, "")
	require.NoError(t, err)
	vmid := strconv.Itoa(vmidOf(t, w, c.ID))

	assert.Regexp(t, `(?m)^`+vmid+` +running +`, tool(t, w, "pct", "list"))
	config := tool(t, w, "pct", "config", vmid)
	assert.Contains(t, config, "memory: 64\n")
	assert.Regexp(t, `(?m)^tags: .*nexcage`, config)
	assert.Equal(t, "1 root\n", tool(t, w, "pct", "exec", vmid, "--", "sh", "-c", "echo 1 $(id -un)"))
	assert.Contains(t, tool(t, w, "pct", "status", vmid, "--verbose"), fmt.Sprintf("pid: %d\n", c.Pid))

	tool(t, w, "pct", "set", vmid, "--memory", "96")
	m, err := c.Metrics(ctx)
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprintf("%v", m), strconv.Itoa(96<<20), "the operator's limit holds")
	assert.Contains(t, confText(t, host.ConfPath(vmidOf(t, w, c.ID))), "lxc.include: /run/nexcage/", "pct set keeps it")

	tool(t, w, "pct", "shutdown", vmid, "--timeout", "20")
	status, _, err := c.Wait(ctx, "")
	require.NoError(t, err)
	assert.EqualValues(t, 5, status, "it was asked to end by SIGTERM")
	_, err = c.Delete(ctx, "")
	require.NoError(t, err)
}

// ctrRun is `ctr run` of a container that ends by itself.
func ctrRun(ctx context.Context, w *place, id string) (out string, code int, err error) {
	cmd := w.Ctr(ctx, "run", "--rm", "--runtime", harness.LXC().Type, harness.Image, id, "true")
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return "", 0, err
	}
	return strings.TrimRight(string(text), "\n"), cmd.ProcessState.ExitCode(), nil
}

// kill ends the task of a container and waits.
func kill(t *testing.T, ctx context.Context, c *harness.Container) {
	t.Helper()
	require.NoError(t, c.Kill(ctx, "", uint32(unix.SIGKILL), false))
	_, _, err := c.Wait(ctx, "")
	require.NoError(t, err)
}

// What the bundle does not say of a container, containerd is asked for: the image,
// the pod, and the signal that ends it.
func TestCTShowsWhatContainerdKnows(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := newScript(t, w, harness.LXC(), "told", "sh", "-c", "trap 'exit 6' QUIT; echo ready; while :; do sleep 0.05; done")
	c, err := w.Client.LoadContainer(s.ctx, s.ID)
	require.NoError(t, err)
	_, err = c.SetLabels(s.ctx, map[string]string{
		"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.containerd.image.config.stop-signal": "SIGQUIT",
	})
	require.NoError(t, err)
	s.create()
	s.start()
	require.NoError(t, s.stdio.AwaitOut(s.ctx, "ready"))
	vmid := recordedVMID(t, s)
	config := pct(t, w, "config", vmid)
	assert.Contains(t, config, "- **image**%3A `"+strings.ReplaceAll(harness.Image, ":", "%3A")+"`%0A")
	assert.Contains(t, config, "- **pod**%3A `shop/web-0`%0A")
	tool(t, w, "pct", "shutdown", vmid, "--timeout", "20")
	s.wait()
	s.delete()
	assert.Contains(t, s.log, "exit: 6")
}

// What containerd updates the UI shows; what an operator has set stays until
// containerd sets that. An update of a CT that is locked is in force nevertheless.
func TestUpdatesAreShownOnProxmox(t *testing.T) {
	w := proxmox(t)
	leaveNothing(t, w)
	noGuestLeft(t)
	logged(t, w)
	s := started(t, newScriptSpec(t, w, harness.LXC(), "shown", []oci.SpecOpts{oci.WithMemoryLimit(64 << 20)}, forever...))
	vmid := recordedVMID(t, s)
	config := func() string { return pct(t, w, "config", vmid) }
	memory := func(mib int64) *specs.LinuxResources {
		limit := mib << 20
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	limit := func(mib int64) {
		m, err := s.Metrics(s.ctx)
		require.NoError(t, err)
		assert.Contains(t, fmt.Sprintf("%v", m), strconv.FormatInt(mib<<20, 10))
	}
	calls, err := w.Node.Calls()
	require.NoError(t, err)
	require.NoError(t, s.Update(s.ctx, memory(80)))
	quota, period := int64(150000), uint64(100000)
	require.NoError(t, s.Update(s.ctx, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}))
	after, err := w.Node.Calls()
	require.NoError(t, err)
	assert.Len(t, after, len(calls), "pct is not called")
	assert.Contains(t, config(), "\nmemory: 80\n")
	assert.Contains(t, config(), "\ncpulimit: 1.5\n")
	limit(80)

	pct(t, w, "set", vmid, "--memory", "96")
	quota = -1
	require.NoError(t, s.Update(s.ctx, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota}}))
	assert.Contains(t, config(), "\nmemory: 96\n")
	assert.NotContains(t, config(), "cpulimit")
	limit(96)

	pct(t, w, "set", vmid, "--lock", "backup")
	require.NoError(t, s.Update(s.ctx, memory(112)))
	limit(112)
	assert.Contains(t, config(), "\nmemory: 96\n")
	pct(t, w, "unlock", vmid)
	require.NoError(t, s.Update(s.ctx, memory(128)))
	assert.Contains(t, config(), "\nmemory: 128\n")
	require.NoError(t, w.Node.SetQuorum(false))
	t.Cleanup(func() { assert.NoError(t, w.Node.SetQuorum(true)) })
	require.NoError(t, s.Update(s.ctx, memory(144)))
	limit(144)
	require.NoError(t, w.Node.SetQuorum(true))
	assert.Contains(t, config(), "\nmemory: 128\n")
	assert.Contains(t, config(), "lxc.include: /run/nexcage/")
}
