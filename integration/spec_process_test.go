package integration

import (
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"
)

// TestSpecProcess is about process, seen from inside and in /proc.
func TestSpecProcess(t *testing.T) { runRows(t, processRows) }

var processRows = []row{
	{
		name: "args", fields: []string{"process.args"},
		args: []string{"sh", "-c", `printf '%s|' "$0" "$@"`, "a  b", "", "'\"\\", "line\nline", "#", "é"},
		want: "a  b||'\"\\|line\nline|#|é|",
	},
	{
		name: "env", fields: []string{"process.env"}, args: []string{"env"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.Env = []string{"PATH=/bin", "EMPTY=", "EQUALS=a=b", "SPACES= x  y "}
		},
		want: "PATH=/bin\nEMPTY=\nEQUALS=a=b\nSPACES= x  y \nHOME=/root\n",
	},
	{
		name: "cwd", fields: []string{"process.cwd"}, args: []string{"pwd"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.Cwd = "/home/app" }, want: "/home/app\n",
	},
	{
		name: "terminal", fields: []string{"process.terminal", "process.consoleSize"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 51, Width: 133}
		},
		args: []string{"sh", "-c", "stty size; test -t 0 -a -t 1 -a -t 2 && tty; cut -d ' ' -f 7 /proc/self/stat"},
		want: "51 133\r\n/dev/pts/0\r\n" + strconv.Itoa(136<<8) + "\r\n",
	},
	{
		name: "no-terminal", fields: []string{"process.terminal"},
		args: []string{"sh", "-c", "test -t 0 || test -t 1 || test -t 2 || cut -d ' ' -f 7 /proc/self/stat"}, want: "0\n",
	},
	{
		name: "user", fields: []string{"process.user.uid", "process.user.gid", "process.user.additionalGids"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1234, GID: 5678, AdditionalGids: []uint32{10, 4294967294}}
		},
		look: func(x *shown) {
			assert.Equal(x.t, "1234 1234 1234 1234", x.status("Uid"))
			assert.Equal(x.t, "5678 5678 5678 5678", x.status("Gid"))
			assert.Equal(x.t, "10 4294967294", x.status("Groups"))
		},
	},
	{
		name: "umask", fields: []string{"process.user.umask"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0o027)) },
		look: func(x *shown) { assert.Equal(x.t, "0027", x.status("Umask")) },
	},
	{
		name: "umask-zero", fields: []string{"process.user.umask"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0)) },
		look: func(x *shown) { assert.Equal(x.t, "0000", x.status("Umask")) },
	},
	{
		name: "capabilities-of-root", fields: []string{
			"process.capabilities.bounding", "process.capabilities.effective", "process.capabilities.inheritable",
			"process.capabilities.permitted", "process.capabilities.ambient",
		},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.NoNewPrivileges, s.Process.Capabilities = false, rootCaps()
		},
		look: func(x *shown) { // execve of root raises permitted and effective to the bounding set, capabilities(7)
			all := "CAP_CHOWN CAP_KILL CAP_NET_RAW CAP_SYS_PTRACE"
			x.capabilities(caps{bnd: all, prm: all, eff: all, inh: "CAP_KILL", amb: "CAP_KILL"})
		},
	},
	{
		name: "capabilities-without-new-privileges", fields: []string{"process.capabilities.permitted", "process.noNewPrivileges"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.NoNewPrivileges, s.Process.Capabilities = true, rootCaps()
		},
		look: func(x *shown) { // but never beyond what was permitted
			permitted := "CAP_CHOWN CAP_KILL CAP_NET_RAW"
			x.capabilities(caps{bnd: permitted + " CAP_SYS_PTRACE", prm: permitted, eff: permitted, inh: "CAP_KILL", amb: "CAP_KILL"})
		},
	},
	{
		name: "capabilities-of-a-user", fields: []string{
			"process.capabilities.bounding", "process.capabilities.effective", "process.capabilities.inheritable",
			"process.capabilities.permitted", "process.capabilities.ambient",
		},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000}
			s.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding:  []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"},
				Permitted: []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}, Effective: []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"},
				Inheritable: []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}, Ambient: []string{"CAP_NET_BIND_SERVICE"},
			}
		},
		look: func(x *shown) {
			x.capabilities(caps{
				bnd: "CAP_CHOWN CAP_KILL CAP_NET_BIND_SERVICE", inh: "CAP_KILL CAP_NET_BIND_SERVICE",
				prm: "CAP_NET_BIND_SERVICE", eff: "CAP_NET_BIND_SERVICE", amb: "CAP_NET_BIND_SERVICE",
			})
		},
	},
	{
		name: "no-capabilities", fields: []string{"process.capabilities.bounding"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} },
		look: func(x *shown) { x.capabilities(caps{}) },
	},
	{
		name: "rlimits", fields: []string{"process.rlimits[].type", "process.rlimits[].soft", "process.rlimits[].hard"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.Rlimits = nil
			for i, l := range rlimitLines {
				s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: l.name, Soft: uint64(l.base + i), Hard: uint64(l.base + i + 1)})
			}
		},
		look: func(x *shown) {
			for i, l := range rlimitLines {
				assert.Equal(x.t, strconv.Itoa(l.base+i)+" "+strconv.Itoa(l.base+i+1), x.limit(l.line), l.name)
			}
		},
	},
	{
		name: "rlimit-infinity", fields: []string{"process.rlimits[].soft", "process.rlimits[].hard"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FSIZE", Soft: unix.RLIM_INFINITY, Hard: unix.RLIM_INFINITY}}
		},
		look: func(x *shown) { assert.Equal(x.t, "unlimited unlimited", x.limit("Max file size")) },
	},
	{
		name: "no-new-privileges", fields: []string{"process.noNewPrivileges"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.NoNewPrivileges = true },
		look: func(x *shown) { assert.Equal(x.t, "1", x.status("NoNewPrivs")) },
	},
	{
		name: "new-privileges", fields: []string{"process.noNewPrivileges"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.NoNewPrivileges = false },
		look: func(x *shown) { assert.Equal(x.t, "0", x.status("NoNewPrivs")) },
	},
	{
		name: "oom-score-adj", fields: []string{"process.oomScoreAdj"}, execFlaw: upTo("1.21", "leaves it as it is"), args: []string{"cat", "/proc/self/oom_score_adj"},
		spec: func(_ *shown, s *specs.Spec) { s.Process.OOMScoreAdj = ptr(321) }, want: "321\n",
	},
	{
		name: "apparmor-profile", flaw: byDesign(isConfinedItself).on(crunProfile), fields: []string{"process.apparmorProfile"}, needs: []need{apparmor}, lacking: "process.apparmorProfile",
		spec: func(_ *shown, s *specs.Spec) { s.Process.ApparmorProfile = "unconfined" },
		args: []string{"cat", "/proc/self/attr/current"}, want: "unconfined\n",
	},
	{
		name: "selinux-label", fields: []string{"process.selinuxLabel"}, needs: []need{selinux}, lacking: "process.selinuxLabel",
		spec: func(_ *shown, s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:container_t:s0:c1,c2" },
		args: []string{"sh", "-c", `tr -d '\0' < /proc/self/attr/current`}, want: "system_u:system_r:container_t:s0:c1,c2",
	},
	{
		name: "mount-label", fields: []string{"linux.mountLabel"}, needs: []need{selinux}, lacking: "linux.mountLabel",
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2"
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/labelled", Type: "tmpfs", Source: "tmpfs"})
		},
		look: func(x *shown) {
			assert.Contains(x.t, strings.Join(x.mountAt("/labelled").super, ","), "system_u:object_r:container_file_t:s0:c1,c2")
		},
	},
	{
		name: "personality", fields: []string{"linux.personality.domain"},
		spec: func(_ *shown, s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
		look: func(x *shown) { assert.Equal(x.t, "00000008\n", x.procFile("personality")) },
	},
	{
		name: "personality-flags", fields: []string{"linux.personality.flags"}, refused: "linux.personality.flags[0]",
		flaw: upTo("1.21", "does not look at them"),
		spec: func(_ *shown, s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"X"}}
		},
	},
}

// rlimitLines are limits by their names in the spec and in /proc/PID/limits;
// base is below what a process may have on any machine.
var rlimitLines = []struct {
	name, line string
	base       int
}{
	{"RLIMIT_AS", "Max address space", 1 << 33},
	{"RLIMIT_CORE", "Max core file size", 4096},
	{"RLIMIT_CPU", "Max cpu time", 1000},
	{"RLIMIT_DATA", "Max data size", 1 << 32},
	{"RLIMIT_FSIZE", "Max file size", 1 << 30},
	{"RLIMIT_LOCKS", "Max file locks", 900},
	{"RLIMIT_MEMLOCK", "Max locked memory", 4096},
	{"RLIMIT_MSGQUEUE", "Max msgqueue size", 4096},
	{"RLIMIT_NOFILE", "Max open files", 100},
	{"RLIMIT_NPROC", "Max processes", 1000},
	{"RLIMIT_RSS", "Max resident set", 1 << 30},
	{"RLIMIT_RTTIME", "Max realtime timeout", 100000},
	{"RLIMIT_SIGPENDING", "Max pending signals", 100},
	{"RLIMIT_STACK", "Max stack size", 1 << 22},
}

// caps are the sets of /proc/PID/status, by capability names.
type caps struct{ bnd, prm, eff, inh, amb string }

func rootCaps() *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{
		Bounding:  []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_PTRACE"},
		Permitted: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}, Effective: []string{"CAP_CHOWN", "CAP_KILL"},
		Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"},
	}
}

func (x *shown) capabilities(want caps) {
	x.t.Helper()
	for _, set := range []struct{ key, names string }{
		{"CapBnd", want.bnd}, {"CapPrm", want.prm}, {"CapEff", want.eff}, {"CapInh", want.inh}, {"CapAmb", want.amb},
	} {
		var mask uint64
		for _, name := range strings.Fields(set.names) {
			mask |= 1 << capabilityBits[name]
		}
		got, err := strconv.ParseUint(x.status(set.key), 16, 64)
		assert.NoError(x.t, err)
		assert.Equal(x.t, mask, got, "%s: %#x, want %#x", set.key, got, mask)
	}
}

var capabilityBits = map[string]int{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_KILL": unix.CAP_KILL, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE,
	"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
}
