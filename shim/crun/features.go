package crun

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features tells what an engine can do, as "engine features" does. A crun
// before 1.8.6 does not have that command; for it the answer is what such
// versions are known to do, and leaves out what depends on the version. The
// process must reap its children (package lxc/child).
func Features(ctx context.Context, binary string) (*features.Features, error) {
	var s engines
	e, err := s.get(ctx, binary)
	if err != nil {
		return nil, err
	}
	if e.isCrun() && e.version.less(version{1, 8, 6}) {
		return e.knownFeatures(), nil
	}
	out, status, err := output(ctx, e.path, "features")
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, fmt.Errorf("%s features: exit status %d: %w", e.path, status, errdefs.ErrNotImplemented)
	}
	f := &features.Features{}
	if err := json.Unmarshal(out, f); err != nil {
		return nil, fmt.Errorf("%s features: %w", e.path, err)
	}
	return f, nil
}

func (e *engine) knownFeatures() *features.Features {
	yes := true
	limit, _ := e.specLimit()
	has := func(part string) *bool {
		found := slices.Contains(e.parts, part)
		return &found
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: limit,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions: []string{
			"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev",
			"nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "rbind", "rdev",
			"relatime", "remount", "rexec", "rnodev", "rnoexec", "rnosuid", "ro", "rprivate", "rro", "rrw",
			"rshared", "rslave", "rsuid", "runbindable", "rw", "shared", "slave", "strictatime", "suid", "sync",
			"tmpcopyup", "unbindable",
		},
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			Cgroup:     &features.Cgroup{V1: &yes, V2: &yes, Systemd: has("+SYSTEMD")},
			Seccomp:    &features.Seccomp{Enabled: has("+SECCOMP")},
			Apparmor:   &features.Apparmor{Enabled: has("+APPARMOR")},
			Selinux:    &features.Selinux{Enabled: has("+SELINUX")},
		},
	}
}
