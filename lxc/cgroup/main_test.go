package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPath is a path that no one else uses; it and what is above it is
// removed at the end of the test.
func testPath(t *testing.T, h *host) string {
	t.Helper()
	top := fmt.Sprintf("nexcage-cgroup-test-%d-%s", os.Getpid(), strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	t.Cleanup(func() {
		for _, v := range h.all() {
			if err := unix.Rmdir(filepath.Join(v.mount, top)); err != unix.ENOENT {
				require.NoError(t, err, v.mount)
			}
		}
	})
	return filepath.Join(top, "c1")
}

// newGroup makes a group and kills and removes it at the end of the test.
func newGroup(t *testing.T, h *host) *Group {
	t.Helper()
	g, err := h.create(testPath(t, h))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.KillAndWait(context.Background())) // that of t is cancelled
		require.NoError(t, g.Remove())
	})
	return g
}

// v1Host skips the test on a machine without cgroup v1.
func v1Host(t *testing.T) *host {
	t.Helper()
	h, err := thisHost()
	require.NoError(t, err)
	if h.unified() {
		t.Skip("needs cgroup v1")
	}
	return h
}

// v2Host is this machine's cgroup2 as if it were alone, although its
// controllers may all be bound to v1.
func v2Host(t *testing.T) *host {
	t.Helper()
	h, err := thisHost()
	require.NoError(t, err)
	if h.v2 == nil {
		t.Skip("needs a cgroup2")
	}
	file := filepath.Join(h.v2.mount, "cgroup.subtree_control")
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	t.Cleanup(func() { // last, when the groups of the test are gone
		after, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, c := range strings.Fields(string(after)) {
			if !slices.Contains(strings.Fields(string(before)), c) {
				require.NoError(t, write(file, "-"+c))
			}
		}
	})
	return &host{v2: h.v2}
}

// both runs a test on each version of cgroups that this machine has.
func both(t *testing.T, test func(t *testing.T, h *host)) {
	t.Run("v1", func(t *testing.T) { test(t, v1Host(t)) })
	t.Run("v2", func(t *testing.T) { test(t, v2Host(t)) })
}

// start runs a shell script in the group.
func start(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd, _ := startPiped(t, g, script)
	return cmd
}

func startPiped(t *testing.T, g *Group, script string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	// It waits until it is in the group.
	cmd := exec.Command("/bin/sh", "-c", "read go; "+script)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, p := range g.places {
		require.NoError(t, write(filepath.Join(p.dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)))
	}
	_, err = io.WriteString(in, "go\n")
	require.NoError(t, err)
	return cmd, bufio.NewReader(out)
}

func contents(t *testing.T, g *Group, controller, file string) string {
	t.Helper()
	dir, err := g.dir(controller)
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, file))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func ptr[T any](v T) *T { return &v }

// hasController says whether a v1 controller is on this host.
func hasController(h *host, name string) bool {
	return slices.ContainsFunc(h.v1, func(v hierarchy) bool { return slices.Contains(v.names, name) })
}
