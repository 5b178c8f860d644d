package integration

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

//go:embed testdata/bundles
var clientBundles embed.FS

// clientBundle is what a client of containerd wrote for a container, without
// what names places of the machine that it was written on.
func clientBundle(t *testing.T, name, dir string) *specs.Spec {
	t.Helper()
	text, err := clientBundles.ReadFile("testdata/bundles/" + name + ".json")
	require.NoError(t, err)
	s := &specs.Spec{}
	require.NoError(t, json.Unmarshal(text, s))
	s.Version, s.Hooks, s.Process.Terminal = harness.Reference().SpecVersion, nil, false
	s.Annotations = nil // a pod's sandbox
	s.Linux.Seccomp, s.Process.ApparmorProfile = nil, ""
	for i := range s.Linux.Namespaces {
		s.Linux.Namespaces[i].Path = ""
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Type != "tmpfs" && filepath.IsAbs(m.Source) && !exists(m.Source) && !strings.HasPrefix(m.Destination, "/etc/")
	})
	for i, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/etc/") {
			s.Mounts[i].Source = filepath.Join(dir, filepath.Base(m.Destination))
			require.NoError(t, os.WriteFile(s.Mounts[i].Source, []byte("of the client\n"), 0o644))
		}
	}
	return s
}

// clientCase is a container as a client's user asks for it.
type clientCase struct {
	name string
	base string // bundle
	spec func(x *shown, s *specs.Spec)
}

func nerdctl(name string, spec func(x *shown, s *specs.Spec)) clientCase {
	return clientCase{name, "containerd2.4-nerdctl", spec}
}

func cri(name string, spec func(x *shown, s *specs.Spec)) clientCase {
	return clientCase{name, "containerd2.4-cri-container", spec}
}

func addMount(s *specs.Spec, destination, kind, source string, options ...string) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Type: kind, Source: source, Options: options})
}

// hostPart has a container use the runtime's namespace.
func hostPart(kind specs.LinuxNamespaceType) func(*shown, *specs.Spec) {
	return func(_ *shown, s *specs.Spec) {
		dropNamespace(s, kind)
		if kind == specs.UTSNamespace {
			s.Hostname = ""
		}
	}
}

var clientCases = []clientCase{
	nerdctl("run", func(*shown, *specs.Spec) {}),
	{"run --privileged", "containerd2.4-nerdctl-privileged", func(*shown, *specs.Spec) {}},
	{"run -v --read-only --user", "containerd2.4-nerdctl-volumes", func(*shown, *specs.Spec) {}},
	cri("pod container", func(*shown, *specs.Spec) {}),
	{"privileged pod container", "containerd2.4-cri-container-privileged", func(*shown, *specs.Spec) {}},
	nerdctl("run --net=host", func(_ *shown, s *specs.Spec) {
		dropNamespace(s, specs.NetworkNamespace)
	}),
	nerdctl("run --pid=host", hostPart(specs.PIDNamespace)),
	nerdctl("run --ipc=host", func(_ *shown, s *specs.Spec) {
		dropNamespace(s, specs.IPCNamespace)
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
		addMount(s, "/dev/shm", "bind", "/dev/shm", "rbind", "nosuid", "noexec", "nodev")
	}),
	nerdctl("run --uts=host", hostPart(specs.UTSNamespace)),
	nerdctl("run --cgroupns=private", func(_ *shown, s *specs.Spec) { setNamespace(s, specs.CgroupNamespace, "") }),
	nerdctl("run --cap-add ALL", func(_ *shown, s *specs.Spec) {
		all := append(slices.Clone(s.Process.Capabilities.Bounding), "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}),
	nerdctl("run --cap-drop ALL", func(_ *shown, s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} }),
	nerdctl("run --cap-add of a user", func(_ *shown, s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} }),
	nerdctl("run with ambient capabilities", func(_ *shown, s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		some := []string{"CAP_NET_BIND_SERVICE", "CAP_CHOWN"}
		s.Process.Capabilities.Inheritable, s.Process.Capabilities.Ambient = some, some
	}),
	nerdctl("run --security-opt no-new-privileges", func(_ *shown, s *specs.Spec) { s.Process.NoNewPrivileges = true }),
	nerdctl("run --security-opt systempaths=unconfined", func(_ *shown, s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil }),
	nerdctl("run --shm-size", func(_ *shown, s *specs.Spec) {
		for i, m := range s.Mounts {
			if m.Destination == "/dev/shm" {
				s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "mode=1777", "size=131072"}
			}
		}
	}),
	nerdctl("run --tmpfs", func(_ *shown, s *specs.Spec) {
		addMount(s, "/run", "tmpfs", "tmpfs", "noexec", "nosuid", "nodev")
		addMount(s, "/home", "tmpfs", "tmpfs", "exec", "suid", "size=65536", "mode=700", "uid=1000", "gid=1000")
		addMount(s, "/data/deep", "tmpfs", "tmpfs", "ro", "nr_inodes=100")
		addMount(s, "/tmp", "tmpfs", "tmpfs", "tmpcopyup")
	}),
	nerdctl("run --mount type=tmpfs on /dev", func(_ *shown, s *specs.Spec) { addMount(s, "/dev/sub", "tmpfs", "tmpfs", "nosuid", "size=1m") }),
	nerdctl("run --device", func(_ *shown, s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices,
			specs.LinuxDevice{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: ptr(os.FileMode(0o644)), UID: ptr(uint32(0)), GID: ptr(uint32(5))},
			specs.LinuxDevice{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: ptr(os.FileMode(0o666))},
			specs.LinuxDevice{Path: "/dev/loop7", Type: "b", Major: 7, Minor: 7, FileMode: ptr(os.FileMode(0o660)), GID: ptr(uint32(6))})
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "rw"})
	}),
	nerdctl("run --sysctl", func(_ *shown, s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 2147483647", "kernel.shmmax": "65536", "net.ipv4.ip_unprivileged_port_start": "0"}
	}),
	nerdctl("run --ulimit", func(_ *shown, s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_NPROC", Soft: 500, Hard: 500}, {Type: "RLIMIT_CORE"}, {Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 21}}
	}),
	nerdctl("run --read-only", func(_ *shown, s *specs.Spec) { s.Root.Readonly = true }),
	nerdctl("run --read-only --tmpfs", func(_ *shown, s *specs.Spec) {
		s.Root.Readonly = true
		addMount(s, "/not/there", "tmpfs", "tmpfs", "noexec")
	}),
	nerdctl("run --init", func(x *shown, s *specs.Spec) {
		tini := filepath.Join(x.dir, "tini") // which executes what follows --
		require.NoError(x.t, os.WriteFile(tini, []byte("#!/bin/sh\nshift\nexec \"$@\"\n"), 0o755))
		addMount(s, "/sbin/tini-custom", "bind", tini, "bind", "ro")
		s.Process.Args = append([]string{"/sbin/tini-custom", "--"}, s.Process.Args...)
	}),
	nerdctl("run -v", func(x *shown, s *specs.Spec) {
		require.NoError(x.t, os.WriteFile(filepath.Join(x.dir, "file"), nil, 0o644))
		addMount(s, "/volume", "bind", x.dir, "rbind", "rprivate")
		addMount(s, "/volume-ro", "bind", x.dir, "rbind", "rro", "rprivate")
		addMount(s, "/etc/motd", "bind", filepath.Join(x.dir, "file"), "bind", "ro", "nosuid", "nodev", "noexec")
		addMount(s, "/new/file", "none", filepath.Join(x.dir, "file"), "rbind", "ro")
	}),
	nerdctl("run --oom-score-adj", func(_ *shown, s *specs.Spec) { s.Process.OOMScoreAdj = ptr(500) }),
	nerdctl("run -m --cpus --pids-limit", func(_ *shown, s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20))}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(512)), Cpus: "0"}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
	}),
	nerdctl("run --hostname --domainname", func(_ *shown, s *specs.Spec) { s.Hostname, s.Domainname = "box", "example.org" }),
	nerdctl("run --umask --group-add", func(_ *shown, s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 1000, 44}, Umask: ptr(uint32(0o27))}
	}),
	nerdctl("run --workdir", func(_ *shown, s *specs.Spec) { s.Process.Cwd = "/made/for/it" }),
	nerdctl("run --env", func(_ *shown, s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "A=1", "A=2", "EMPTY=", "HOME=/elsewhere", "WITH=a=b\nc")
	}),
	nerdctl("run without PATH", func(_ *shown, s *specs.Spec) { s.Process.Env, s.Process.Args[0] = []string{"TERM=xterm"}, "/bin/sh" }),
	nerdctl("run -v …:rslave", func(x *shown, s *specs.Spec) {
		x.tree()
		require.NoError(x.t, unix.Mount("", filepath.Join(x.dir, "sub"), "", unix.MS_SHARED, ""))
		s.Linux.RootfsPropagation = "rslave"
		addMount(s, "/volume", "bind", x.dir, "rbind", "rslave")
	}),
	nerdctl("run -v …:rshared", func(x *shown, s *specs.Spec) {
		x.tree()
		require.NoError(x.t, unix.Mount("", filepath.Join(x.dir, "sub"), "", unix.MS_SHARED, ""))
		s.Linux.RootfsPropagation = "rshared" // crun shares what is to be private then
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return slices.Contains(m.Options, "rprivate") })
		addMount(s, "/volume", "bind", x.dir, "rbind", "rshared")
	}),
	cri("pod container that sees the host's pids and network", func(_ *shown, s *specs.Spec) {
		dropNamespace(s, specs.PIDNamespace)
		dropNamespace(s, specs.NetworkNamespace)
	}),
	cri("pod container with a hostPath of a device", func(_ *shown, s *specs.Spec) {
		addMount(s, "/dev/zero2", "bind", "/dev/zero", "rbind", "rprivate", "rw")
	}),
	cri("pod container with a termination log", func(x *shown, s *specs.Spec) {
		file := filepath.Join(x.dir, "log")
		require.NoError(x.t, os.WriteFile(file, nil, 0o666))
		addMount(s, "/dev/termination-log", "bind", file, "rbind", "rprivate", "rw")
	}),
	cri("pod container, read-only, with an emptyDir", func(x *shown, s *specs.Spec) {
		s.Root.Readonly = true
		addMount(s, "/cache", "bind", x.dir, "rbind", "rprivate", "rw")
		addMount(s, "/secret", "bind", x.dir, "rbind", "rprivate", "ro")
	}),
}

// oddCases are what few clients write, but some do.
var oddCases = []clientCase{
	nerdctl("socket and FIFO", func(x *shown, s *specs.Spec) {
		l, err := net.Listen("unix", filepath.Join(x.dir, "socket"))
		require.NoError(x.t, err)
		x.t.Cleanup(func() { assert.NoError(x.t, l.Close()) })
		require.NoError(x.t, unix.Mkfifo(filepath.Join(x.dir, "fifo"), 0o600))
		addMount(s, "/run/socket", "bind", filepath.Join(x.dir, "socket"), "bind", "nosuid", "nodev")
		addMount(s, "/run/fifo", "bind", filepath.Join(x.dir, "fifo"), "bind", "nosuid", "nodev")
	}),
	nerdctl("source that is a link", func(x *shown, s *specs.Spec) {
		require.NoError(x.t, os.Symlink("/etc/hostname", filepath.Join(x.dir, "link")))
		addMount(s, "/etc/motd", "bind", filepath.Join(x.dir, "link"), "bind")
	}),
	nerdctl("destination that is a link", func(_ *shown, s *specs.Spec) { addMount(s, "/bin/ls", "bind", "/bin/busybox", "bind") }),
	nerdctl("devices in odd places", func(_ *shown, s *specs.Spec) {
		null := func(path string) specs.LinuxDevice {
			return specs.LinuxDevice{Path: path, Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o020666))}
		}
		s.Linux.Devices = append(s.Linux.Devices, null("/elsewhere/null"), null("/dev/twice"), null("/dev/twice"), null("/dev/bound"))
		addMount(s, "/dev/bound", "bind", "/dev/zero", "bind")
	}),
	nerdctl("only the mount namespace is new", func(_ *shown, s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		s.Hostname = ""
	}),
	nerdctl("file systems twice", func(_ *shown, s *specs.Spec) {
		addMount(s, "/proc2", "proc", "proc")
		addMount(s, "/sys2", "sysfs", "sysfs")
		addMount(s, "/pts2", "devpts", "devpts", "newinstance", "ptmxmode=0666")
	}),
	nerdctl("the host's /dev", func(_ *shown, s *specs.Spec) { addMount(s, "/hostdev", "bind", "/dev", "rbind") }),
	nerdctl("the host's /dev as its own", func(_ *shown, s *specs.Spec) {
		dev := specs.Mount{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind", "rprivate"}}
		s.Mounts = []specs.Mount{dev, s.Mounts[0], s.Mounts[5]}
	}),
	nerdctl("overlay", func(x *shown, s *specs.Spec) {
		for _, d := range []string{"lower", "upper", "work"} {
			require.NoError(x.t, os.Mkdir(filepath.Join(x.dir, d), 0o755))
		}
		addMount(s, "/over", "overlay", "overlay", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", x.dir))
	}),
	nerdctl("options of tmpfs", func(_ *shown, s *specs.Spec) {
		addMount(s, "/t1", "tmpfs", "tmpfs", "size=10%", "mode=0777")
		addMount(s, "/t2", "tmpfs", "tmpfs", "size=1m,mode=0700")
		addMount(s, "/t3", "tmpfs", "tmpfs", "defaults", "async", "rw", "")
	}),
	nerdctl("a small stack", func(_ *shown, s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_STACK", Soft: 65536, Hard: 65536}}
	}),
	nerdctl("a command that is relative", func(_ *shown, s *specs.Spec) { s.Process.Args[0] = "bin/sh" }),
	nerdctl("a capability that there is not", func(_ *shown, s *specs.Spec) {
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_NONE")
	}),
	nerdctl("no capabilities", func(_ *shown, s *specs.Spec) { s.Process.Capabilities = nil }),
}

// TestContainersOfClientsLookTheSame runs what nerdctl and the CRI plugin write
// with the runc shim and crun, and with LXC: the container sees the same.
func TestContainersOfClientsLookTheSame(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	for _, c := range slices.Concat(clientCases, oddCases) {
		t.Run(c.name, func(t *testing.T) {
			got := c.run(t, w, harness.LXC()) // before the other, which may leave something for a while
			want := c.run(t, w, harness.Reference())
			assert.Equal(t, want.Stdout, got.Stdout)
			assert.Equal(t, want.Stderr, got.Stderr)
			assert.Equal(t, want.Code, got.Code)
			assert.Greater(t, strings.Count(want.Stdout, "\n"), 60, "the look around: %s", want.Stderr)
		})
	}
}

// execCases are processes in a container as clients ask for them.
var execCases = []struct {
	name    string
	process func(p *specs.Process)
}{
	{"exec", func(*specs.Process) {}},
	{"exec -u", func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 44}} }},
	{"exec -w", func(p *specs.Process) { p.Cwd = "/etc" }},
	{"exec -w of what is missing", func(p *specs.Process) { p.Cwd = "/not/there" }},
	{"exec -e", func(p *specs.Process) { p.Env = append(p.Env, "A=1", "HOME=/x") }},
	{"exec --privileged", func(p *specs.Process) {
		all := append(slices.Clone(p.Capabilities.Bounding), "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE")
		p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all, Ambient: all}
	}},
	{"exec of a user with capabilities", func(p *specs.Process) {
		p.User = specs.User{UID: 1000, GID: 1000}
		some := []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
		p.Capabilities = &specs.LinuxCapabilities{Bounding: some, Effective: some, Permitted: some, Inheritable: some, Ambient: some}
	}},
	{"exec with no new privileges", func(p *specs.Process) { p.NoNewPrivileges = true }},
	{"exec without capabilities", func(p *specs.Process) { p.Capabilities = nil }},
	{"exec with limits", func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 60}} }},
	{"exec with a umask", func(p *specs.Process) { p.User.Umask = ptr(uint32(0o77)) }},
	{"exec of what is missing", func(p *specs.Process) { p.Args = []string{"nosuch"} }},
	{"exec of a directory", func(p *specs.Process) { p.Args = []string{"/etc"} }},
	{"exec of an empty name", func(p *specs.Process) { p.Args = []string{""} }},
}

// TestExecsOfClientsLookTheSame is that for execs. With crun they do not have the
// container's umask, limits and OOM score, as with runc and here.
func TestExecsOfClientsLookTheSame(t *testing.T) {
	w := world(t, harness.Versions[0].Name)
	outcomes := func(rt harness.Runtime) (all []outcome) {
		c := nerdctl("exec", func(_ *shown, s *specs.Spec) {
			s.Process.Args = forever
			s.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{7}}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		})
		x := c.container(t, w, rt)
		require.NoError(t, x.Create(x.ctx, x.stdio))
		_, err := x.Start(x.ctx, "")
		require.NoError(t, err)
		for _, e := range execCases {
			p, err := x.Process(x.ctx, "sh", "-c", look)
			require.NoError(t, err)
			e.process(p)
			all = append(all, x.execute(p))
		}
		return all
	}
	got := outcomes(harness.LXC()) // first, as above
	want := outcomes(harness.Reference())
	for i, e := range execCases {
		t.Run(e.name, func(t *testing.T) {
			assert.Equal(t, want[i].Stdout, got[i].Stdout)
			assert.Equal(t, want[i].Stderr, got[i].Stderr)
			assert.Equal(t, want[i].Code, got[i].Code)
		})
	}
}

// execute runs a process in the container.
func (x *shown) execute(p *specs.Process) outcome {
	stdio := &harness.Stdio{}
	id := containerID("exec")
	if err := x.Exec(x.ctx, id, p, stdio); err != nil {
		return outcome{Stderr: class(err), Code: -1}
	}
	if _, err := x.Start(x.ctx, id); err != nil {
		_, derr := x.Delete(x.ctx, id)
		require.NoError(x.t, derr)
		return outcome{Stderr: class(err), Code: -2}
	}
	status, _, err := x.Wait(x.ctx, id)
	require.NoError(x.t, err)
	require.NoError(x.t, stdio.Wait(x.ctx))
	_, err = x.Delete(x.ctx, id)
	require.NoError(x.t, err)
	return x.outcome(stdio, status)
}

func (c clientCase) run(t *testing.T, w *place, rt harness.Runtime) outcome {
	x := c.container(t, w, rt)
	if err := x.Create(x.ctx, x.stdio); err != nil {
		return outcome{Stderr: err.Error(), Code: -1}
	}
	if _, err := x.Start(x.ctx, ""); err != nil {
		return outcome{Stderr: err.Error(), Code: -2}
	}
	status, _, err := x.Wait(x.ctx, "")
	require.NoError(t, err)
	require.NoError(t, x.stdio.Wait(x.ctx))
	return x.outcome(x.stdio, status)
}

func (c clientCase) container(t *testing.T, w *place, rt harness.Runtime) *shown {
	logged(t, w)
	if !rt.Reference {
		leaveNothing(t, w)
	}
	x := &shown{script: &script{t: t, ctx: within(t, time.Minute), place: w, stdio: &harness.Stdio{}}, dir: t.TempDir()}
	require.NoError(t, os.Chmod(x.dir, 0o755))
	id := containerID("client")
	change := func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		*s = *clientBundle(t, c.base, x.dir)
		s.Process.Args = []string{"sh", "-c", look + propagations}
		s.Linux.CgroupsPath = "/" + w.Namespace + "/" + id
		c.spec(x, s)
		return nil
	}
	var err error
	x.Container, err = w.NewContainer(x.ctx, rt, id, harness.Image, change)
	require.NoError(t, err)
	destroyed(t, x.Container)
	return x
}

// outcome is what a process printed, without what differs from container to
// container, and between crun and runc.
func (x *shown) outcome(stdio *harness.Stdio, status uint32) outcome {
	names := strings.NewReplacer(x.ID, "ID", x.dir, "DIR")
	out := outcome{names.Replace(stdio.Out()), names.Replace(stdio.Err()), int(status)}
	for _, b := range crunsWay {
		out.Stdout = b.what.ReplaceAllString(out.Stdout, b.with)
	}
	return blurred(out)
}

// propagations prints how the mounts are connected with others.
const propagations = `
awk '{ print $5, $7 }' /proc/self/mountinfo | sed 's/:[0-9]*/:…/g' | sort
`

// crunsWay hides what crun does otherwise than runc, whose ways ours are.
var crunsWay = []struct {
	what *regexp.Regexp
	with string
}{
	// It leaves the directory of the hierarchies writable, and has other names for them.
	{regexp.MustCompile(`(?m)^/sys/fs/cgroup r.,\S+ tmpfs .*$`), "/sys/fs/cgroup tmpfs"},
	{regexp.MustCompile(`(?m)^(/sys/fs/cgroup/\S+ \S+ cgroup) \S+`), "$1"},
	{regexp.MustCompile(`(?m)^(/sys/fs/cgroup \S+ cgroup2) .*$`), "$1"},
	// It drops what the file system that a bind mount is of was mounted with.
	{regexp.MustCompile(`(?m)^(/(?:etc/|volume|secret|new/|sbin/|dev/termination-log|cache )\S* r.)\S*`), "$1"},
	{regexp.MustCompile(`(?m)^c (10:200|5:1) rwm\n`), ""},                            // it allows no tun, but a console
	{regexp.MustCompile(`(?m)^(crw-rw-rw-) \S+ \S+ (1, 3 null)$`), "$1 $2"},          // it gives stdin away, also if that is /dev/null
	{regexp.MustCompile(`(?m)^(drwxr-xr-)[tx] (root root (?:data|not))$`), "$1x $2"}, // it makes mount points sticky
}
