package crun

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// TestMain makes the test binary a fake engine when it is called as one, and
// otherwise a process like the shim: a subreaper that reaps.
func TestMain(m *testing.M) {
	if dir := filepath.Dir(os.Args[0]); exists(filepath.Join(dir, fakeVersion)) {
		os.Exit(fake(dir, os.Args[1:]))
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

// Files beside a fake engine.
const (
	fakeVersion  = "version"  // what it answers to --version; empty: it fails
	fakeFeatures = "features" // likewise, to features
	fakeCalls    = "calls"    // its command lines
	fakeCgroup   = "cgroup"   // the directory that it makes, and leaves
)

// fake is an engine whose create always fails, after it has opened its log.
func fake(dir string, args []string) int {
	calls, err := os.OpenFile(filepath.Join(dir, fakeCalls), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 100
	}
	fmt.Fprintln(calls, strings.Join(args, " "))
	answers := map[string]string{"--version": fakeVersion, "features": fakeFeatures}
	if name, ok := answers[args[0]]; ok {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(b) == 0 {
			return 1
		}
		fmt.Print(string(b))
		return 0
	}
	if b, err := os.ReadFile(filepath.Join(dir, fakeCgroup)); err == nil {
		_ = os.MkdirAll(string(b), 0o755)
	}
	for i, a := range args {
		if a == "--log" {
			_ = os.WriteFile(args[i+1], []byte(`{"level":"error","msg":"the fake can not do it"}`), 0o600)
		}
	}
	return 1
}

// fakeEngine makes a fake engine and returns its path.
func fakeEngine(t testing.TB, version string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, fakeVersion), []byte(version), 0o600))
	path := filepath.Join(dir, "engine")
	require.NoError(t, os.Symlink(self, path))
	return path
}

// callsOf returns the command lines of a fake engine.
func callsOf(t testing.TB, engine string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(engine), fakeCalls))
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// crunVersion is what Debian 12's crun says.
const crunVersion = `crun version 1.8.1
commit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30
rundir: /run/crun
spec: 1.0.0
+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL
`

// newBundle writes a bundle with a root file system and returns its path.
func newBundle(t testing.TB, spec *specs.Spec) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755))
	b, err := json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644))
	return dir
}

// newService makes a service whose events go to the recorder.
func newService(t testing.TB, o Options) (context.Context, *Service, *recorder) {
	t.Helper()
	r := newRecorder()
	o.Publisher = r
	ctx := namespaces.WithNamespace(t.Context(), "test")
	s, err := New(ctx, o)
	require.NoError(t, err)
	s.cgroupRoot = t.TempDir() // as if there were no hybrid cgroups
	return ctx, s, r
}
