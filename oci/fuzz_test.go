package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// Whatever a config.json has in it: it is refused with an error of a known
// kind, or the plan keeps its promises.
func FuzzTranslate(f *testing.F) {
	for _, file := range bundles(f) {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{
		`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","args":["a"]},"hostname":"a\nlxc.x = y",
		"linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"ipc","path":"/a\nb"}],"cgroupsPath":"a:b:c","sysctl":{"kernel/sem":"1"}}}`,
		`{"ociVersion":"1.0.0","root":{"path":"/r"},"process":{"cwd":"/","args":["a"],"env":["A=b"]},
		"mounts":[{"destination":"../..","type":"tmpfs"},{"destination":"/d","source":"s","options":["rbind","rro","a,,=b\\,c"]}],
		"linux":{"namespaces":[{"type":"mount"}],"devices":[{"path":"/x/../y","type":"c","major":1,"minor":2}]}}`,
		`{"ociVersion":"1.3.0","root":{"path":"/r"},"process":{"cwd":"/","args":["a"],"apparmorProfile":"p","selinuxLabel":"l:t",
		"scheduler":{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3,"flags":["SCHED_FLAG_RECLAIM"]},
		"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":3},"execCPUAffinity":{"initial":"0-3,7","final":"1"}},
		"linux":{"namespaces":[{"type":"mount"},{"type":"time"},{"type":"cgroup","path":"/c"}],"mountLabel":"l","timeOffsets":{"boottime":{"secs":-1,"nanosecs":9}},
		"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0-1,3","flags":["MPOL_F_STATIC_NODES"]},
		"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","listenerMetadata":"m","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := Parse(b)
		if err == nil {
			var plan *Plan
			if plan, err = Translate(bundleDir, spec); err == nil {
				checkPlan(t, plan)
				return
			}
			var field *FieldError
			if !errors.As(err, &field) {
				t.Errorf("%v names no property", err)
			}
		}
		if !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%v is of no known kind", err)
		}
	})
}

func checkPlan(t *testing.T, p *Plan) {
	config, err := lxcconf.Marshal(p.Config)
	if err != nil || strings.Count(string(config), "\n") != len(p.Config) {
		t.Errorf("%q: %v", config, err)
	}
	for _, m := range p.Mounts {
		checkInside(t, m.Destination)
		if m.Kind == MountBind && !filepath.IsAbs(m.Source) {
			t.Errorf("relative source %q", m.Source)
		}
	}
	for _, d := range p.Devices {
		checkInside(t, d.Path)
	}
	for _, path := range append(p.MaskedPaths, p.ReadonlyPaths...) {
		checkInside(t, path)
	}
	for name := range p.Sysctl {
		checkInside(t, "/"+name)
	}
	for name := range p.UserSysctl {
		checkInside(t, "/"+name)
	}
	if p.TimeOffsets != strings.TrimLeft(p.TimeOffsets, "\n") || strings.Count(p.TimeOffsets, "\n") > len(timeClocks) {
		t.Errorf("time offsets %q", p.TimeOffsets)
	}
	checkOps(t, p)
}

func checkInside(t *testing.T, path string) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		t.Errorf("%q is not absolute and clean", path)
	}
}

// checkOps finds that the operations can be sent, unless they are too many
// or too large.
func checkOps(t *testing.T, p *Plan) {
	prepare, start, err := ProcessOps(p.Process, ProcessOptions{
		Stdin: 0, Stdout: 1, Stderr: 2, Personality: p.Personality, MemoryPolicy: p.MemoryPolicy, Procfs: 3, AppArmorAttr: AppArmorAttr,
	})
	if err != nil {
		t.Fatal(err)
	}
	initial, final := AffinityOps(p.Process)
	for _, ops := range [][]initop.Op{prepare, start, initial, final} {
		if _, err := initop.Encode(ops); err != nil && !strings.Contains(err.Error(), "bytes") {
			t.Error(err)
		}
	}
}
