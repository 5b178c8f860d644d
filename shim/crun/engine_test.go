package crun

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestEngineTellsItsVersion(t *testing.T) {
	for out, want := range map[string]engine{
		crunVersion: {name: "crun", version: version{1, 8, 1}, parts: []string{
			"+SYSTEMD", "+SELINUX", "+APPARMOR", "+CAP", "+SECCOMP", "+EBPF", "+YAJL"}},
		"crun version 1.21\ncommit: x\n":                         {name: "crun", version: version{1, 21, 0}},
		"crun version 1.14.3.0.0.0.22-5d3e":                      {name: "crun", version: version{1, 14, 3}},
		"runc version 1.1.5+ds1\ncommit: 1.1.5\nspec: 1.0.2-dev": {name: "runc", version: version{1, 1, 5}},
		"youki version 0.3":                                      {name: "youki", version: version{0, 3, 0}},
		"something else":                                         {},
		"crun version unknown":                                   {},
		"crun version 99999999999999999999.1":                    {},
	} {
		t.Run(out, func(t *testing.T) {
			var e engine
			e.parse(out)
			assert.Equal(t, want, e)
		})
	}
}

func TestEngineIsAskedOnce(t *testing.T) {
	path := fakeEngine(t, crunVersion)
	var s engines
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			e, err := s.get(t.Context(), path)
			if assert.NoError(t, err) {
				assert.Equal(t, version{1, 8, 1}, e.version)
				assert.Equal(t, path, e.path)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, []string{"--version"}, callsOf(t, path))
}

func TestEngineIsFoundInPath(t *testing.T) {
	path := fakeEngine(t, crunVersion)
	t.Setenv("PATH", filepath.Dir(path))
	var s engines
	e, err := s.get(t.Context(), "engine")
	require.NoError(t, err)
	assert.Equal(t, path, e.path)
}

func TestEngineThatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var s engines
	for _, binary := range []string{"crun", "/nowhere/crun"} {
		_, err := s.get(t.Context(), binary)
		assert.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		assert.ErrorContains(t, err, `"`+binary+`"`)
		assert.ErrorContains(t, err, "install it, or configure the path")
	}
}

func TestEngineThatDoesNotTellIsTakenAsItIs(t *testing.T) {
	var s engines
	e, err := s.get(t.Context(), fakeEngine(t, ""))
	require.NoError(t, err)
	assert.Equal(t, &engine{path: e.path}, e)
	assert.False(t, e.forgetsPoststop())
	_, limited := e.specLimit()
	assert.False(t, limited)
}

func TestEngineThatHangsIsNotWaitedFor(t *testing.T) {
	script := filepath.Join(t.TempDir(), "engine")
	// The child of the script keeps the pipe open.
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nsleep 5 & wait\n"), 0o700))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	var s engines
	_, err := s.get(ctx, script)
	assert.ErrorContains(t, err, script)
	assert.Less(t, time.Since(begin), 4*time.Second)
}

func TestSpecLimit(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version version
		limit   string
	}{
		{"crun", version{0, 17, 0}, "1.0.2"},
		{"crun", version{1, 8, 0}, "1.0.2"},
		{"crun", version{1, 8, 1}, "1.1.0"},
		{"crun", version{1, 14, 2}, "1.1.0"},
		{"crun", version{1, 14, 3}, ""},
		{"crun", version{1, 21, 0}, ""},
		{"crun", version{2, 0, 0}, ""},
		{"runc", version{1, 1, 5}, ""},
		{"", version{}, ""},
	} {
		e := engine{name: tc.name, version: tc.version}
		limit, limited := e.specLimit()
		assert.Equal(t, tc.limit, limit, "%+v", tc)
		assert.Equal(t, tc.limit != "", limited, "%+v", tc)
	}
}

func TestPrepareLowersTheVersionForAnOldCrun(t *testing.T) {
	old, recent := engine{name: "crun", version: version{1, 8, 1}}, engine{name: "crun", version: version{1, 21, 0}}
	for _, tc := range []struct {
		engine     engine
		have, want string
	}{
		{old, "1.3.0", "1.1.0"},
		{old, "1.2.0-rc.1", "1.1.0"},
		{old, "1.1.1", "1.1.0"},
		{old, "1.1.0", "1.1.0"},
		{old, "1.0.2-dev", "1.0.2-dev"},
		{old, "latest", "latest"},
		{engine{name: "crun", version: version{1, 4, 5}}, "1.1.0", "1.0.2"},
		{recent, "1.3.0", "1.3.0"},
		{engine{name: "runc"}, "1.3.0", "1.3.0"},
	} {
		b, err := loadBundle(newBundle(t, &specs.Spec{Version: tc.have}))
		require.NoError(t, err)
		require.NoError(t, tc.engine.prepare(b, t.TempDir()))
		b, err = loadBundle(b.path)
		require.NoError(t, err)
		assert.Equal(t, tc.want, b.config.Version, "%+v", tc)
	}
}

func TestHybridCgroupsAreRefusedForCrun(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	root := t.TempDir()
	unified := filepath.Join(root, "unified")
	mount := func(target, fs string) {
		t.Helper()
		require.NoError(t, unix.Mount("none", target, fs, 0, ""))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(target, 0)) })
	}
	crun := engine{path: "/usr/bin/crun", name: "crun", version: version{1, 8, 1}}
	b, err := loadBundle(newBundle(t, &specs.Spec{Version: "1.0.2"}))
	require.NoError(t, err)

	assert.NoError(t, crun.prepare(b, root), "neither")
	mount(root, "tmpfs")
	require.NoError(t, os.Mkdir(unified, 0o755))
	assert.NoError(t, crun.prepare(b, root), "cgroup v1")
	mount(unified, "cgroup2")
	controllers, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
	require.NoError(t, err)
	if len(strings.TrimSpace(string(controllers))) == 0 {
		assert.NoError(t, crun.prepare(b, root), "a cgroup2 without controllers")
		t.Skip("this host's cgroup2 has no controllers")
	}
	err = crun.prepare(b, root)
	assert.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.ErrorContains(t, err, "/usr/bin/crun: crun does not work with hybrid cgroups: "+unified)
	assert.ErrorContains(t, err, "systemd.unified_cgroup_hierarchy=1")
	assert.NoError(t, crun.prepare(b, unified), "cgroup2 alone")
	runc := engine{name: "runc"}
	assert.NoError(t, runc.prepare(b, root))
}

func TestFeatures(t *testing.T) {
	t.Run("of a crun that can not tell", func(t *testing.T) {
		path := fakeEngine(t, crunVersion)
		f, err := Features(t.Context(), path)
		require.NoError(t, err)
		assert.Equal(t, "1.1.0", f.OCIVersionMax)
		assert.Contains(t, f.MountOptions, "rro")
		assert.Len(t, f.Hooks, 6)
		assert.True(t, *f.Linux.Seccomp.Enabled)
		assert.True(t, *f.Linux.Cgroup.Systemd)
		assert.Equal(t, []string{"--version"}, callsOf(t, path))
	})
	t.Run("as the engine tells", func(t *testing.T) {
		path := fakeEngine(t, "crun version 1.21")
		require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), fakeFeatures), []byte(`{"ociVersionMax":"1.2.1"}`), 0o600))
		f, err := Features(t.Context(), path)
		require.NoError(t, err)
		assert.Equal(t, &features.Features{OCIVersionMax: "1.2.1"}, f)
	})
	t.Run("of an engine without the command", func(t *testing.T) {
		_, err := Features(t.Context(), fakeEngine(t, "runc version 1.0.0"))
		assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
	})
	t.Run("of an engine that talks nonsense", func(t *testing.T) {
		path := fakeEngine(t, "runc version 1.2.0")
		require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), fakeFeatures), []byte(`features`), 0o600))
		_, err := Features(t.Context(), path)
		assert.ErrorContains(t, err, path+" features:")
	})
}
