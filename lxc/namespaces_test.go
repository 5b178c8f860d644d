package lxc

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

func TestNamespacesAreOfTheirType(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for kind, file := range map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc",
		specs.UTSNamespace: "uts", specs.UserNamespace: "user", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
	} {
		t.Run(string(kind), func(t *testing.T) {
			check := func(path string) error {
				return checkNamespaces(&oci.Plan{Namespaces: map[specs.LinuxNamespaceType]oci.Namespace{kind: {Path: path}}})
			}
			assert.NoError(t, check(""))
			assert.NoError(t, check("/proc/self/ns/"+file))
			other := "uts"
			if file == other {
				other = "ipc"
			}
			assert.ErrorContains(t, check("/proc/self/ns/"+other), "linux.namespaces: "+string(kind)+": /proc/self/ns/"+other+" is a namespace of another type")
			assert.ErrorContains(t, check("/no/such"), "no such file")
			assert.ErrorContains(t, check("/dev/null"), "is not a namespace")
			assert.ErrorContains(t, check(fifo), "is not a namespace")
		})
	}
}
