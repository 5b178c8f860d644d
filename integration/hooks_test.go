package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// hooked makes a container with hooks; lists are those of the spec by name.
func hooked(t *testing.T, w *place, rt harness.Runtime, lists map[string][]specs.Hook, args ...string) *script {
	t.Helper()
	logged(t, w)
	leaveNothing(t, w)
	ctx := within(t, time.Minute)
	hooks := func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		data, err := json.Marshal(lists)
		if err != nil {
			return err
		}
		s.Hooks = &specs.Hooks{}
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		return json.Unmarshal(data, s.Hooks)
	}
	c, err := w.NewContainer(ctx, rt, containerID(t.Name()), harness.Image, oci.WithProcessArgs(args...), hooks)
	require.NoError(t, err)
	destroyed(t, c)
	return &script{Container: c, t: t, ctx: ctx, place: w, stdio: &harness.Stdio{}}
}

// shell is a hook that is a shell script: of the host, or of the image.
func shell(text string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOOK=yes"}}
}

func hostFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.TrimSpace(string(data))
}

// spaces writes the namespaces of a hook to a file, in one order.
const spaces = "for n in mnt pid net uts ipc; do readlink /proc/self/ns/$n; done > "

func namespacesOf(t *testing.T, pid uint32) string {
	t.Helper()
	var all []string
	for _, n := range []string{"mnt", "pid", "net", "uts", "ipc"} {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, n))
		require.NoError(t, err)
		all = append(all, ns)
	}
	return strings.Join(all, "\n")
}

// The root of the container, by the state and the bundle, as NVIDIA's hooks
// find it.
const findRoot = `cat > $D/state; bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/' $D/state); ` +
	`root=$(sed 's/.*"root":{[^}]*"path":"\([^"]*\)".*/\1/' $bundle/config.json); ` +
	`case $root in /*) ;; *) root=$bundle/$root;; esac; `

func TestHooksInsideOfTheContainer(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o777))
		on := func(text string) specs.Hook {
			return shell("D=" + dir + "; " + text)
		}
		s := hooked(t, w, rt, map[string][]specs.Hook{
			"createRuntime": {on(spaces + "$D/runtime; echo createRuntime >> $D/order; ls " + dir + "/order")},
			"createContainer": {on(findRoot + spaces + "$D/inside; echo createContainer >> $D/order; id -u > $D/uid; pwd > $D/pwd; " +
				"mkdir -p $root/mnt && mount -t tmpfs hook $root/mnt && echo mounted > $root/mnt/file; echo written > $root/etc/hook; test -e $root/bin/busybox -a -e $root/proc/self")},
			"startContainer": {shell("cat > /tmp/state; id -u > /tmp/uid; " + spaces + "/tmp/inside; pwd > /tmp/pwd; " +
				"grep -h CapEff /proc/self/status > /tmp/caps; env | grep HOOK > /tmp/env")},
		}, "sh", "-c", "cat /mnt/file /etc/hook /tmp/uid /tmp/pwd /tmp/env; cat /tmp/inside; echo; cat /tmp/state; echo; exec sleep 1000")
		s.create()
		require.NoError(t, s.last)
		s.start()
		require.NoError(t, s.last)
		s.awaitOut(s.stdio, `"status"`)

		inside := namespacesOf(t, s.Pid)
		assert.Equal(t, "createRuntime\ncreateContainer", hostFile(t, dir+"/order"))
		assert.Equal(t, namespacesOf(t, uint32(os.Getpid())), hostFile(t, dir+"/runtime"))
		assert.Equal(t, inside, hostFile(t, dir+"/inside"))
		assert.Equal(t, "0", hostFile(t, dir+"/uid"))
		assert.Contains(t, s.stdio.Out(), "mounted\nwritten\n1000\n/\nHOOK=yes\n"+inside, "mounts of the hook persist")

		var early, late specs.State
		require.NoError(t, json.Unmarshal([]byte(hostFile(t, dir+"/state")), &early))
		require.NoError(t, json.Unmarshal([]byte(s.stdio.Out()[strings.Index(s.stdio.Out(), "{"):]), &late))
		assert.Equal(t, s.ID, early.ID)
		assert.Equal(t, s.ID, late.ID)
		if rt.Backend == "lxc" { // crun 1.8 says 0, and its own words
			assert.Equal(t, early.Bundle, hostFile(t, dir+"/pwd"))
			assert.Equal(t, 1, early.Pid)
			assert.Equal(t, 1, late.Pid)
			assert.Equal(t, specs.StateCreating, early.Status)
			assert.Equal(t, specs.StateCreated, late.Status)
		}
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()
		_, err := os.Stat(filepath.Join(early.Bundle, "rootfs", "mnt", "file"))
		assert.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestAFailingHookFailsItsStep(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, kind := range []string{"createContainer", "startContainer"} {
			for name, hook := range map[string]specs.Hook{
				"exit":    shell("cat > /dev/null; echo the reason >&2; exit 3"),
				"missing": {Path: "/nosuch/hook"},
				"timeout": {Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000"}, Timeout: ptr(1)},
			} {
				t.Run(kind+"/"+name, func(t *testing.T) {
					dir := t.TempDir()
					s := hooked(t, w, rt, map[string][]specs.Hook{
						"createRuntime": {shell("cat > /dev/null; echo r >> " + dir + "/order")}, // crun does not stand one that reads nothing
						kind:            {shell("cat > /dev/null"), hook}, "poststop": {shell("cat > /dev/null; echo p >> " + dir + "/order")},
					}, "sleep", "1000")
					s.create()
					if kind == "startContainer" {
						require.NoError(t, s.last)
						s.start()
					}
					late := rt.Backend == "crun" && kind == "startContainer" // after crun's answer
					if !late {
						require.Error(t, s.last)
					}
					if rt.Backend == "lxc" {
						assert.ErrorContains(t, s.last, "hooks."+kind+"[1] ("+hook.Path+")")
						assert.ErrorContains(t, s.last, map[string]string{"exit": "exit status 3, stderr: the reason", "missing": "no such file", "timeout": "timeout of 1 s"}[name])
					}
					if kind == "startContainer" {
						s.wait()
						s.delete()
						status := "exit: 137"
						if late {
							status = "exit: 1"
						}
						assert.Contains(t, s.log, status)
					}
					assert.Equal(t, "r\np", hostFile(t, dir+"/order"), "poststop hooks are due")
				})
			}
		}
	})
}

// Nothing waits for a hook that hangs but the start itself.
func TestAContainerWhoseStartContainerHookHangsIsKilled(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	s := hooked(t, w, harness.LXC(), map[string][]specs.Hook{"startContainer": {shell("echo > /tmp/hangs; sleep 1000")}}, "true")
	s.create()
	started := make(chan error)
	go func() {
		_, err := s.Start(s.ctx, "")
		started <- err
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp/hangs", s.Pid))
		return err == nil
	}, slow(20*time.Second), 10*time.Millisecond)
	s.state()
	s.kill(uint32(unix.SIGKILL))
	assert.ErrorContains(t, <-started, "hooks.startContainer[0]")
	s.wait()
	s.delete()
	assert.Equal(t, []string{"create: ok", "state: created", "kill 9: ok", "exit: 137", "delete: 137"}, s.log)
}
