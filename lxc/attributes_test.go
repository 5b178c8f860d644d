package lxc

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// A capability that the shim does not have is a warning, and not an error
// (runtime-spec, config.md, Linux Process).
func TestCapabilitiesThatTheShimLacksAreLogged(t *testing.T) {
	real := ownCapabilities
	ownCapabilities = func() uint64 { return oci.AllCapabilities &^ (1 << unix.CAP_SYS_RESOURCE) }
	t.Cleanup(func() { ownCapabilities = real })
	var text strings.Builder
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(&text)
	t.Cleanup(func() { log.L.Logger.SetOutput(out) })
	c := &creation{Container: &Container{request: Request{
		Bundle: "/bundle", Save: func(Record) error { return nil }, Host: Native(nil),
		Spec: &specs.Spec{
			Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Args: []string{"x"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_SYS_RESOURCE"}}},
			Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
		},
	}}}
	require.NoError(t, c.translate(t.Context()))
	assert.Equal(t, 1, strings.Count(text.String(), "level=warning"))
	assert.Contains(t, text.String(), `\"CAP_SYS_RESOURCE\" can not be granted`)
}

func TestTheListenerOfAFilterNeedsASocket(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "socket")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	for path, want := range map[string]string{
		"": "", socket: "", file: "is not a socket", filepath.Join(dir, "none"): "no such file",
	} {
		err := checkListener(&oci.Filter{ListenerPath: path})
		if want == "" {
			assert.NoError(t, err)
			continue
		}
		assert.ErrorContains(t, err, "linux.seccomp.listenerPath")
		assert.ErrorContains(t, err, want)
	}
}
