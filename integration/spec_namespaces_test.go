package integration

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSpecNamespaces is about linux.namespaces, by the inodes in /proc/PID/ns.
func TestSpecNamespaces(t *testing.T) { runRows(t, namespaceRows) }

var namespaceRows = []row{
	newNamespace(specs.PIDNamespace, "pid"),
	newNamespace(specs.NetworkNamespace, "net"),
	newNamespace(specs.IPCNamespace, "ipc"),
	newNamespace(specs.UTSNamespace, "uts"),
	newNamespace(specs.MountNamespace, "mnt"),
	newNamespace(specs.CgroupNamespace, "cgroup"),
	hostNamespace(specs.PIDNamespace, "pid"),
	hostNamespace(specs.NetworkNamespace, "net"),
	hostNamespace(specs.IPCNamespace, "ipc"),
	hostNamespace(specs.UTSNamespace, "uts"),
	hostNamespace(specs.CgroupNamespace, "cgroup"),
	joinedNamespace(specs.PIDNamespace, "pid", "--pid"),
	joinedNamespace(specs.NetworkNamespace, "net", "--net"),
	joinedNamespace(specs.IPCNamespace, "ipc", "--ipc"),
	joinedNamespace(specs.UTSNamespace, "uts", "--uts"),
	{
		name: "namespace-twice", fields: []string{"linux.namespaces[].type"}, refused: "linux.namespaces[", flaw: upTo("1.8.1", "makes one of them"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		},
	},
	{
		name: "namespace-unknown", fields: []string{"linux.namespaces[].type"}, refused: `"galaxy"`,
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "galaxy"})
		},
	},
	{
		name: "namespace-of-another-type", fields: []string{"linux.namespaces[].path"}, refused: "linux.namespaces: network",
		spec: func(_ *shown, s *specs.Spec) { setNamespace(s, specs.NetworkNamespace, "/proc/self/ns/uts") },
	},
	{
		name: "namespace-path-is-missing", fields: []string{"linux.namespaces[].path"}, refused: "linux.namespaces: network",
		spec: func(_ *shown, s *specs.Spec) { setNamespace(s, specs.NetworkNamespace, "/no/such") },
	},
}

func setNamespace(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	dropNamespace(s, kind)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

func dropNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func newNamespace(kind specs.LinuxNamespaceType, name string) row {
	return row{
		name: "new-" + string(kind), fields: []string{"linux.namespaces[].type"},
		spec: func(_ *shown, s *specs.Spec) { setNamespace(s, kind, "") },
		look: func(x *shown) {
			assert.NotEqual(x.t, readlink(x.t, "/proc/self/ns/"+name), x.namespace(name))
		},
	}
}

// hostNamespace is a type that is not in the list: the runtime's is used.
func hostNamespace(kind specs.LinuxNamespaceType, name string) row {
	return row{
		name: "host-" + string(kind), fields: []string{"linux.namespaces[].type"},
		spec: func(_ *shown, s *specs.Spec) {
			dropNamespace(s, kind)
			s.Hostname = ""
			if kind == specs.NetworkNamespace { // a sysfs belongs to whoever has the network
				for i, m := range s.Mounts {
					if m.Type == "sysfs" {
						s.Mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}}
					}
				}
			}
		},
		look: func(x *shown) { assert.Equal(x.t, readlink(x.t, "/proc/self/ns/"+name), x.namespace(name)) },
	}
}

func joinedNamespace(kind specs.LinuxNamespaceType, name, flag string) row {
	var want string
	return row{
		name: "joined-" + string(kind), fields: []string{"linux.namespaces[].path"},
		spec: func(x *shown, s *specs.Spec) {
			path := "/proc/" + itoa(x.namespaceHolder(flag)) + "/ns/" + name
			want = readlink(x.t, path)
			dropNamespace(s, specs.CgroupNamespace)
			setNamespace(s, kind, path)
			s.Hostname = ""
		},
		look: func(x *shown) {
			assert.Equal(x.t, want, x.namespace(name))
			if kind != specs.CgroupNamespace {
				assert.Equal(x.t, readlink(x.t, "/proc/self/ns/cgroup"), x.namespace("cgroup"), "the cgroup namespace, which the spec does not ask for")
			}
		},
	}
}

// namespaceHolder is a process in a new namespace.
func (x *shown) namespaceHolder(flag string) int {
	x.t.Helper()
	cmd := exec.Command("unshare", flag, "--fork", "--kill-child", "sh", "-c", "readlink /proc/self; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(x.t, err)
	require.NoError(x.t, cmd.Start())
	x.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // its status is that of the kill
	})
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(x.t, err)
	children, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/task/" + itoa(cmd.Process.Pid) + "/children")
	require.NoError(x.t, err)
	var pid int
	for _, f := range strings.Fields(string(children)) {
		for _, d := range f {
			pid = pid*10 + int(d-'0')
		}
	}
	return pid
}
