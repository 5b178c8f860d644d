package oci

import (
	"encoding/json"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci/seccomp"
)

// Everything that the document lists is accepted.
func TestFeaturesAreHonoured(t *testing.T) {
	f := Features()
	for _, o := range f.MountOptions {
		m := specs.Mount{Destination: "/x", Type: "tmpfs", Source: "/src", Options: []string{o}}
		if mountOptions[o].idmap {
			m = specs.Mount{Destination: "/x", Source: "/src", Options: []string{"bind", o}, UIDMappings: idRange(0, 100000, 1), GIDMappings: idRange(0, 100000, 1)}
		}
		_, err := Translate(bundleDir, minimal(mounts(m)))
		assert.NoError(t, err, o)
	}
	for _, name := range f.Hooks {
		s := minimal()
		s.Hooks = &specs.Hooks{}
		require.NoError(t, json.Unmarshal([]byte(`{"`+name+`": [{"path": "/x"}]}`), s.Hooks))
		p, err := Translate(bundleDir, s)
		require.NoError(t, err, name)
		assert.NotEqual(t, &specs.Hooks{}, p.Hooks)
	}
	for _, name := range f.Linux.Namespaces {
		list := []specs.LinuxNamespace{newNS(specs.LinuxNamespaceType(name))}
		if name != "mount" {
			list = append(list, newNS("mount"))
		}
		if name == "user" {
			translate(t, userNS(IDMap{UIDs: idRange(0, 100000, 65536), GIDs: idRange(0, 100000, 65536)}))
			continue
		}
		translate(t, namespaces(list...))
	}
	_, warnings := capabilitiesOf(&specs.LinuxCapabilities{Bounding: f.Linux.Capabilities})
	assert.Empty(t, warnings)
}

func TestFeaturesOfWhichClientsDepend(t *testing.T) {
	f := Features()
	assert.Contains(t, f.MountOptions, "rro", "containerd's CRI and its tests look for it")
	assert.Equal(t, []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}, f.Hooks)
	assert.True(t, *f.Linux.MountExtensions.IDMap.Enabled, "the kubelet's user namespaces need it")
	assert.Contains(t, f.Linux.Namespaces, "user")
	assert.Len(t, f.Linux.Capabilities, 41)
}

func TestSeccompFeatures(t *testing.T) {
	compiles := func(change func(*specs.LinuxSeccomp)) bool {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
		change(s)
		_, _, err := seccomp.Compile(s, runtime.GOARCH)
		return err == nil
	}
	f := Features().Linux.Seccomp
	for _, a := range append(f.Actions, "SCMP_ACT_X") {
		ok := compiles(func(s *specs.LinuxSeccomp) {
			s.ListenerPath = "/agent"
			s.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.LinuxSeccompAction(a)}}
		})
		assert.Equal(t, a != "SCMP_ACT_X", ok, a)
	}
	for _, op := range append(f.Operators, "SCMP_CMP_X") {
		ok := compiles(func(s *specs.LinuxSeccomp) {
			s.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: specs.LinuxSeccompOperator(op)}}}}
		})
		assert.Equal(t, op != "SCMP_CMP_X", ok, op)
	}
	for _, a := range append(f.Archs, "SCMP_ARCH_X") {
		ok := compiles(func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{specs.Arch(a)} })
		assert.Equal(t, a != "SCMP_ARCH_X", ok, a)
	}
	for _, flag := range append(f.KnownFlags, "SECCOMP_FILTER_FLAG_X") {
		ok := compiles(func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(flag)} })
		assert.Equal(t, flag != "SECCOMP_FILTER_FLAG_X", ok, flag)
	}
}
