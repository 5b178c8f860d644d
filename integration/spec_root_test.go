package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSpecRoot is about the root file system, its name, and what is hidden in it.
func TestSpecRoot(t *testing.T) { runRows(t, rootRows) }

var rootRows = []row{
	{
		name: "version", fields: []string{"ociVersion"}, args: []string{"echo", "ran"}, want: "ran\n",
		spec: func(_ *shown, s *specs.Spec) { s.Version = "1.0.2-dev" },
	},
	{
		name: "version-2", fields: []string{"ociVersion"}, refused: "ociVersion",
		flaw: byDesign("gets an ociVersion that it knows"),
		spec: func(_ *shown, s *specs.Spec) { s.Version = "2.0.0" },
	},
	{
		name: "annotations", fields: []string{"annotations"}, args: []string{"echo", "ran"}, want: "ran\n",
		spec: func(x *shown, s *specs.Spec) {
			s.Annotations = map[string]string{"a.b/c": "line\nlxc.init.cmd = /bin/false"}
			hookInto(x, &s.Hooks, "createRuntime", "cat > state")
		},
		after: func(x *shown) {
			assert.Contains(x.t, x.hostFile("state"), `"a.b/c":"line\nlxc.init.cmd = /bin/false"`)
		},
	},
	{
		name: "root-path", fields: []string{"root.path"}, args: []string{"cat", "/marker"}, want: "elsewhere\n",
		spec: func(x *shown, s *specs.Spec) {
			s.Root.Path = filepath.Join(x.dir, "elsewhere")
			for path, mode := range map[string]os.FileMode{"bin/cat": 0o755, "marker": 0o644} {
				require.NoError(x.t, os.MkdirAll(filepath.Join(s.Root.Path, filepath.Dir(path)), 0o755))
				data := []byte("elsewhere\n")
				if mode == 0o755 {
					var err error
					data, err = os.ReadFile("/bin/busybox")
					require.NoError(x.t, err)
				}
				require.NoError(x.t, os.WriteFile(filepath.Join(s.Root.Path, path), data, mode))
			}
		},
	},
	{
		name: "root-readonly", fields: []string{"root.readonly"},
		spec: func(_ *shown, s *specs.Spec) { s.Root.Readonly = true },
		look: func(x *shown) {
			assert.Contains(x.t, x.mountAt("/").options, "ro")
			assert.Contains(x.t, x.inside("touch", "/new"), "Read-only file system")
		},
	},
	{
		name: "root-writable", fields: []string{"root.readonly"},
		look: func(x *shown) { assert.Empty(x.t, x.inside("touch", "/new")) },
	},
	rootPropagation("private", ""),
	rootPropagation("rprivate", ""),
	rootPropagation("slave", "master:"),
	rootPropagation("rslave", "master:"),
	rootPropagation("shared", "shared:"),
	rootPropagation("rshared", "shared:"),
	rootPropagation("unbindable", "unbindable"),
	withFlaw(upTo("1.21", "can not bind what it masks then"), rootPropagation("runbindable", "unbindable")),
	{
		name: "root-propagation-unknown", fields: []string{"linux.rootfsPropagation"}, refused: `linux.rootfsPropagation: "sharing" is not one of`,
		flaw: upTo("1.21", "does not check it"),
		spec: func(_ *shown, s *specs.Spec) { s.Linux.RootfsPropagation = "sharing" },
	},
	{
		name: "hostname", fields: []string{"hostname"}, args: []string{"cat", "/proc/sys/kernel/hostname"}, want: "host.name\n",
		spec: func(_ *shown, s *specs.Spec) { s.Hostname = "host.name" },
	},
	{
		name: "domainname", fields: []string{"domainname"}, args: []string{"cat", "/proc/sys/kernel/domainname"}, want: "domain.name\n",
		spec: func(_ *shown, s *specs.Spec) { s.Domainname = "domain.name" }, crun: "1.5",
	},
	{
		name: "masked-paths", fields: []string{"linux.maskedPaths"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/etc/passwd", "/home", "/no/such", "/proc/keys"}
		},
		args: []string{"sh", "-c", "cat /etc/passwd; ls -A /home; touch /home/x 2>/dev/null || echo refused; cat /proc/keys; test ! -e /no"},
		want: "refused\n",
	},
	{
		name: "readonly-paths", fields: []string{"linux.readonlyPaths"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.ReadonlyPaths = []string{"/home", "/etc/passwd", "/no/such", "/proc/sys"}
		},
		look: func(x *shown) {
			for _, path := range []string{"/home", "/etc/passwd", "/proc/sys"} {
				assert.Contains(x.t, x.mountAt(path).options, "ro", path)
			}
			assert.Contains(x.t, x.inside("touch", "/home/app/x"), "Read-only file system")
			assert.Contains(x.t, x.mountAt("/proc").options, "rw")
		},
	},
	{
		name: "sysctl", fields: []string{"linux.sysctl"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "8100", "fs.mqueue.msg_max": "13", "net.ipv4.ping_group_range": "0 7"}
		},
		args: []string{"sh", "-c", "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax fs/mqueue/msg_max net/ipv4/ping_group_range"},
		want: "1\n8100\n13\n0\t7\n",
	},
	{
		name: "sysctl-of-the-host", fields: []string{"linux.sysctl"}, refused: `linux.sysctl["vm.swappiness"]`,
		spec: func(_ *shown, s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} },
	},
	{
		name: "devices", fields: []string{
			"linux.devices[].path", "linux.devices[].type", "linux.devices[].major", "linux.devices[].minor",
			"linux.devices[].fileMode", "linux.devices[].uid", "linux.devices[].gid",
		},
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/deep/char", Type: "c", Major: 1, Minor: 5, FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(7)), GID: ptr(uint32(8))},
				{Path: "/dev/block", Type: "b", Major: 7, Minor: 3, FileMode: ptr(os.FileMode(0o600))},
				{Path: "/dev/fifo", Type: "p", FileMode: ptr(os.FileMode(0o622))},
				{Path: "/dev/unbuffered", Type: "u", Major: 1, Minor: 3},
			}
		},
		args: []string{"sh", "-c", "cd /dev; stat -c '%n %F %a %u:%g %t,%T' deep/char block fifo unbuffered"},
		want: "deep/char character special file 640 7:8 1,5\nblock block special file 600 0:0 7,3\nfifo fifo 622 0:0 0,0\n" +
			"unbuffered character special file 666 0:0 1,3\n",
	},
	{
		name: "default-devices", fields: []string{"linux.devices"},
		args: []string{"sh", "-c", "cd /dev; stat -c '%n %a %t,%T' null zero full random urandom tty; for l in fd stdin stdout stderr ptmx; do readlink $l; done"},
		want: "null 666 1,3\nzero 666 1,5\nfull 666 1,7\nrandom 666 1,8\nurandom 666 1,9\ntty 666 5,0\n" +
			"/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
	},
}

func rootPropagation(option, tags string) row {
	return row{
		name: "root-propagation-" + option, fields: []string{"linux.rootfsPropagation"},
		spec: func(_ *shown, s *specs.Spec) { s.Linux.RootfsPropagation = option },
		look: func(x *shown) {
			got := x.mountAt("/").tags
			switch {
			case strings.HasSuffix(option, "slave") && got == "":
				// a slave of a private mount is private
			case tags == "":
				assert.Empty(x.t, got)
			default:
				assert.True(x.t, strings.HasPrefix(got, tags), got)
			}
		},
	}
}

func withFlaw(f flaw, r row) row {
	r.flaw = f
	return r
}

// hostFile is a file that a hook of the row wrote.
func (x *shown) hostFile(name string) string {
	x.t.Helper()
	data, err := os.ReadFile(filepath.Join(x.dir, name))
	require.NoError(x.t, err)
	return string(data)
}
