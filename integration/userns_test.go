package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// onEachHost calls f for the newest containerd on plain LXC and on Proxmox, with
// ids for that many containers. Their snapshots are on the session's tmpfs, which
// has to be idmapped.
func onEachHost(t *testing.T, ranges int, f func(t *testing.T, w *place)) {
	needsIDMappedTmpfs(t)
	for name, open := range map[string]func(*testing.T) *place{"native": newestWorld, "proxmox": proxmox} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			require.NoError(t, harness.GiveIDs(ranges))
			f(t, w)
		})
	}
}

// needsIDMappedTmpfs skips what has the images' layers on the session's tmpfs.
func needsIDMappedTmpfs(t *testing.T) {
	t.Helper()
	if why := lacks([]need{kernel(6, 3)}); why != "" {
		t.Skipf("this machine lacks %s, which idmaps a tmpfs", why)
	}
}

// onEachBackend calls f for both backends, and for LXC on Proxmox as well.
func onEachBackend(t *testing.T, f func(t *testing.T, w *place, rt harness.Runtime)) {
	newest(t, f)
	t.Run("proxmox", func(t *testing.T) {
		w := proxmox(t)
		require.NoError(t, harness.GiveIDs(10))
		f(t, w, harness.LXC())
	})
}

func newestWorld(t *testing.T) *place { return world(t, harness.Versions[0].Name) }

// TestLifecycleInUserNamespaces runs the same table as TestLifecycle: a
// container does not notice that it has a user namespace of its own.
func TestLifecycleInUserNamespaces(t *testing.T) {
	onEachHost(t, 100, func(t *testing.T, w *place) {
		for _, table := range [][]scenario{outputs, failures, signals, refusals, execs, terminals, resources} {
			for _, sc := range table {
				t.Run(sc.name, func(t *testing.T) { sc.test(t, w, harness.UserNS("")) })
			}
		}
	})
}

// TestKilledShimFreesTheRange is TestKilledShimLeavesNothing where a container
// has a range of ids, which is one of the files that leaveNothing looks at.
func TestKilledShimFreesTheRange(t *testing.T) {
	onEachHost(t, 1, func(t *testing.T, w *place) {
		for _, phase := range phases {
			t.Run(phase.name, func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				s := newScript(t, w, harness.UserNS(""), "userns-"+phase.name, "sh", "-c", "sleep 1001 & exec sleep 1000")
				phase.reach(s)
				require.NoError(t, s.last)
				s.awaitEvent(phase.events[len(phase.events)-3])
				assert.Len(t, takenRanges(t), 1)
				pid := shims(t)[s.ID]
				require.NotZero(t, pid, "the shim's process")
				murder(t, pid)
				s.checkEvents(phase.events)
				assert.Empty(t, takenRanges(t))
			})
		}
	})
}

func takenRanges(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/run/nexcage/.ids/*")
	require.NoError(t, err)
	return names
}

// usernsContainer runs until the end of the test.
func usernsContainer(t *testing.T, w *place, rt harness.Runtime, name string, opts ...oci.SpecOpts) *script {
	t.Helper()
	return started(t, newScriptSpec(t, w, rt, name, opts, forever...))
}

func started(t *testing.T, s *script) *script {
	t.Helper()
	s.create()
	s.start()
	require.NoError(t, s.last)
	return s
}

// remapped is a container with a user namespace in its spec, from first on.
func remapped(t *testing.T, w *place, rt harness.Runtime, name string, first uint32, opts []oci.SpecOpts, args ...string) *script {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	ids := []specs.LinuxIDMapping{{HostID: first, Size: 65536}}
	c, err := w.NewRemapped(ctx, rt, containerID(name), harness.Image, ids, append([]oci.SpecOpts{oci.WithProcessArgs(args...)}, opts...)...)
	require.NoError(t, err)
	destroyed(t, c)
	return &script{Container: c, t: t, ctx: ctx, place: w, stdio: withStdin()}
}

var owners = regexp.MustCompile(`(?m)^(/dev/null|/dev/pts) \d+:\d+`)

// withStdin keeps crun from giving the host's /dev/null, as the stdin that
// nobody has, to a user of the user namespace.
func withStdin() *harness.Stdio { return &harness.Stdio{Stdin: strings.NewReader("")} }

func uidMap(t *testing.T, pid uint32) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	require.NoError(t, err)
	return strings.Join(strings.Fields(string(text)), " ")
}

func TestContainersGetRangesOfTheirOwn(t *testing.T) {
	onEachHost(t, 2, func(t *testing.T, w *place) {
		logged(t, w)
		leaveNothing(t, w)
		a := usernsContainer(t, w, harness.UserNS(""), "range-a")
		b := usernsContainer(t, w, harness.UserNS(""), "range-b")
		assert.Equal(t, fmt.Sprintf("0 %d 65536", harness.FirstUID), uidMap(t, a.Pid))
		assert.Equal(t, fmt.Sprintf("0 %d 65536", harness.FirstUID+65536), uidMap(t, b.Pid))

		c := newScriptSpec(t, w, harness.UserNS(""), "range-c", nil, forever...)
		err := c.Create(c.ctx, &harness.Stdio{})
		require.ErrorContains(t, err, `all 2 ranges of 65536 subordinate ids that user "root" has are in use`)

		shared := harness.UserNS("userns_range = \"shared\"\n")
		for _, name := range []string{"shared-a", "shared-b"} {
			s := usernsContainer(t, w, shared, name)
			assert.Equal(t, fmt.Sprintf("0 %d 65536", harness.FirstUID), uidMap(t, s.Pid))
		}
	})
}

// Files keep the owners that they have on disk: in a volume, and in what the
// container writes to its root file system, which is what gets committed.
func TestFilesKeepTheirOwnersOnDisk(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		logged(t, w)
		leaveNothing(t, w)
		volume := t.TempDir()
		require.NoError(t, os.Chmod(volume, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(volume, "old"), nil, 0o600))
		require.NoError(t, os.Chown(filepath.Join(volume, "old"), 12, 34))
		mount := oci.WithMounts([]specs.Mount{{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}}})
		const program = `stat -c %u:%g /volume/old /bin /etc/passwd; touch /volume/new /new; chown 12:34 /volume/new /new; stat -c %u:%g /new; exec sleep 1000`
		s := newScriptSpec(t, w, harness.UserNS(""), "owners", []oci.SpecOpts{mount}, "sh", "-c", program)
		out := &harness.Stdio{}
		require.NoError(t, s.Create(s.ctx, out))
		s.start()
		require.NoError(t, out.AwaitOut(within(t, 30*time.Second), "12:34\n0:0\n0:0\n12:34\n"))
		assert.Equal(t, "12:34", owner(t, filepath.Join(volume, "new")))
		upper := ""
		mounts, err := w.Client.SnapshotService("overlayfs").Mounts(w.Context(t.Context()), s.ID)
		require.NoError(t, err)
		for _, o := range mounts[0].Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = dir
			}
		}
		assert.Equal(t, "12:34", owner(t, filepath.Join(upper, "new")))
	})
}

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st), path)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// A file system that can not be idmapped is an error that says which, or else
// the container has no user namespace, and no range.
func TestFileSystemThatCannotBeIDMapped(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		logged(t, w)
		leaveNothing(t, w)
		dir := t.TempDir()
		var layers []string
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
			layers = append(layers, filepath.Join(dir, name))
		}
		require.NoError(t, unix.Mount("overlay", layers[3], "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", layers[0], layers[1], layers[2])))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(layers[3], 0)) })
		mount := []oci.SpecOpts{oci.WithMounts([]specs.Mount{{Destination: "/volume", Type: "bind", Source: layers[3], Options: []string{"rbind"}}})}

		s := newScriptSpec(t, w, harness.UserNS(""), "no-idmap", mount, forever...)
		err := s.Create(s.ctx, &harness.Stdio{})
		require.ErrorContains(t, err, fmt.Sprintf("source: %q is on a file system of type overlay, whose ids this kernel can not map", layers[3]))
		assert.Empty(t, takenRanges(t))

		s = usernsContainer(t, w, harness.UserNS("userns_fallback = \"plain\"\n"), "plain", mount...)
		assert.Equal(t, uidMap(t, uint32(os.Getpid())), uidMap(t, s.Pid))
		assert.Empty(t, takenRanges(t))
	})
}

// What shares a namespace with the host, or joins one, is left as its spec says.
func TestContainersThatShareNamespacesAreLeftAlone(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		leaveNothing(t, w)
		host := uidMap(t, uint32(os.Getpid()))
		for name, opt := range map[string]oci.SpecOpts{
			"host-network": oci.WithHostNamespace(specs.NetworkNamespace),
			"host-pid":     oci.WithHostNamespace(specs.PIDNamespace),
			"joined-ipc":   oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", os.Getpid())}),
		} {
			t.Run(name, func(t *testing.T) {
				logged(t, w)
				s := usernsContainer(t, w, harness.UserNS(""), name, opt)
				assert.Equal(t, host, uidMap(t, s.Pid))
			})
		}
	})
}

func withRlimit(limit specs.POSIXRlimit) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Process.Rlimits = []specs.POSIXRlimit{limit}
		return nil
	}
}

// TestUserNamespaceOfTheSpec looks at the same things with both backends: what
// crun gives a container with a user namespace is what LXC gives it.
func TestUserNamespaceOfTheSpec(t *testing.T) {
	const program = `id -u; id -g; cat /proc/self/gid_map
stat -c '%n %u:%g %a' /dev/shm /dev/pts /dev/mqueue /dev/null
touch /dev/shm/file; stat -c %u:%g /dev/shm/file
echo through-stdout > /dev/stdout
grep -E '^(Cap|NoNewPrivs)' /proc/self/status
ulimit -n; ulimit -Hn
cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj
cat /proc/keys 2>&1 | wc -c; echo x 2>/dev/null > /proc/sys/kernel/shmmax || echo read-only
dd if=/dev/zero of=/dev/null bs=1 count=1 2>/dev/null && echo devices`
	opts := []oci.SpecOpts{
		withRlimit(specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}),
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Linux.Sysctl = map[string]string{"kernel.shmmax": "12345678", "net.ipv4.ip_unprivileged_port_start": "80"}
			s.Process.User.UID, s.Process.User.GID = 1000, 1000
			score := 7
			s.Process.OOMScoreAdj = &score
			return nil
		},
	}
	outputs := map[string]string{}
	onEachBackend(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		s := remapped(t, w, rt, "spec-userns", 200000, opts, "sh", "-c", program)
		out := withStdin()
		require.NoError(t, s.Create(s.ctx, out))
		assert.Equal(t, "0 200000 65536", uidMap(t, s.Pid))
		s.start()
		s.wait()
		require.NoError(t, out.Wait(within(t, 30*time.Second)))
		assert.Contains(t, out.Out(), "through-stdout\n")
		assert.Contains(t, out.Out(), "12345678\n80\n7\n")
		outputs[filepath.Base(t.Name())] = owners.ReplaceAllString(out.Out(), "$1 …") // crun binds the host's null; 1.21 owns pts, which the kernel gives to nobody
	})
	assert.Equal(t, outputs["crun"], outputs["lxc"])
	if !harness.Guest() { // where another guest is the node
		assert.Equal(t, outputs["crun"], outputs["proxmox"])
	}
}

// TestCtrUserNamespace is what a user types, with the snapshot that the
// snapshotter chowns, and with one that is idmapped when it is mounted.
func TestCtrUserNamespace(t *testing.T) {
	onEachHost(t, 4, ctrUserNamespace)
	for _, v := range harness.Versions[1:] { // whose clients send other options
		t.Run(v.Name, func(t *testing.T) {
			needsIDMappedTmpfs(t)
			w := world(t, v.Name)
			require.NoError(t, harness.GiveIDs(4))
			ctrUserNamespace(t, w)
		})
	}
}

func ctrUserNamespace(t *testing.T, w *place) {
	all := [][]string{nil, {"--remap-labels"}}
	if w.Version.Name == "1.6" {
		all = all[:1] // its snapshotter does not know the labels
	}
	for _, extra := range all {
		t.Run(strings.Join(append([]string{"ctr"}, extra...), " "), func(t *testing.T) {
			logged(t, w)
			leaveNothing(t, w)
			args := append([]string{"run", "--rm", "--runtime", harness.LXC().Type, "--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536"}, extra...)
			id := containerID("ctr-userns")
			out, err := w.Ctr(t.Context(), append(args, "--cgroup", "/"+id, harness.Image, id, "sh", "-c",
				"cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin /etc/passwd; touch /new && stat -c %u:%g /new")...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Equal(t, "0 300000 65536 0 400000 65536 0:0 0:0 0:0", strings.Join(strings.Fields(string(out)), " "))
		})
	}
}

// TestExecInAUserNamespace looks at a process that joins one.
func TestExecInAUserNamespace(t *testing.T) {
	onEachBackend(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		s := started(t, remapped(t, w, rt, "exec-userns", 200000, nil, forever...))
		out := withStdin()
		p, err := s.Process(s.ctx, "sh", "-c", "id -u; id -G; readlink /proc/self/ns/user; ulimit -Hn")
		require.NoError(t, err)
		p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1001}}
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10000, Hard: 10001}}
		require.NoError(t, s.Container.Exec(s.ctx, "e", p, out))
		_, err = s.Start(s.ctx, "e")
		require.NoError(t, err)
		status, _, err := s.Wait(s.ctx, "e")
		require.NoError(t, err)
		assert.Zero(t, status)
		require.NoError(t, out.Wait(within(t, 30*time.Second)))
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", s.Pid))
		require.NoError(t, err)
		lines := strings.Split(out.Out(), "\n")
		require.Len(t, lines, 5, "%s", out.Out()+out.Err())
		assert.Equal(t, []string{"1000", ns, "10001"}, []string{lines[0], lines[2], lines[3]})
		assert.ElementsMatch(t, []string{"1001", "5"}, strings.Fields(lines[1]))
		_, err = s.Container.Delete(s.ctx, "e")
		require.NoError(t, err)
	})
}

// A container of a pod with a user namespace joins that, and those that it
// owns, by path.
func TestUserNamespaceJoinedByPath(t *testing.T) {
	onEachBackend(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		sandbox := started(t, remapped(t, w, harness.Crun(), "sandbox", 200000, nil, forever...))
		join := func(kind specs.LinuxNamespaceType, file string) oci.SpecOpts {
			return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", sandbox.Pid, file)})
		}
		pod := []oci.SpecOpts{
			join(specs.UserNamespace, "user"), join(specs.NetworkNamespace, "net"),
			join(specs.IPCNamespace, "ipc"), join(specs.UTSNamespace, "uts"),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
		}
		s := started(t, remapped(t, w, rt, "joins", 200000, pod, forever...))
		for _, ns := range []string{"user", "net", "ipc", "uts"} {
			want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", sandbox.Pid, ns))
			require.NoError(t, err)
			got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.Pid, ns))
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
		out := withStdin()
		p, err := s.Process(s.ctx, "sh", "-c", "id -u; stat -c %u /etc /dev/shm; ls /sys/class/net")
		require.NoError(t, err)
		require.NoError(t, s.Container.Exec(s.ctx, "e", p, out))
		_, err = s.Start(s.ctx, "e")
		require.NoError(t, err)
		_, _, err = s.Wait(s.ctx, "e")
		require.NoError(t, err)
		require.NoError(t, out.Wait(within(t, 30*time.Second)))
		assert.True(t, strings.HasSuffix(out.Out(), "\nlo\n"), "%q %q", out.Out(), out.Err())
		_, err = s.Container.Delete(s.ctx, "e")
		require.NoError(t, err)
		if rt.Backend != "lxc" {
			return
		}
		wrong := remapped(t, w, rt, "wrong-map", 300000, pod, forever...)
		require.ErrorContains(t, wrong.Create(wrong.ctx, &harness.Stdio{}), "are not those of the user namespace that is joined: u 0 200000 65536")
	})
}

// TestIDMappedMounts looks at a file of user 12 through mounts with a mapping
// of their own, in a container with and without a user namespace.
func TestIDMappedMounts(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		volume := t.TempDir()
		require.NoError(t, os.Chmod(volume, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(volume, "file"), nil, 0o644))
		require.NoError(t, os.Chown(filepath.Join(volume, "file"), 12, 34))
		ids := func(container, host uint32) []specs.LinuxIDMapping {
			return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: 1}}
		}
		bind := specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}}
		own := bind
		own.UIDMappings, own.GIDMappings = ids(12, 1012), ids(34, 1034)
		inside := own
		inside.UIDMappings, inside.GIDMappings = ids(12, 201012), ids(34, 201034)
		ofTheContainer, recursive := bind, bind
		ofTheContainer.Options, recursive.Options = []string{"bind", "idmap"}, []string{"rbind", "ridmap"}
		for _, c := range []struct {
			name   string
			userNS bool
			mount  specs.Mount
			want   string
		}{
			{"its-own-mapping", false, own, "1012:1034"},
			{"its-own-mapping-in-a-user-namespace", true, inside, "1012:1034"},
			{"idmap", true, ofTheContainer, "12:34"},
			{"ridmap", true, recursive, "12:34"},
			{"none-in-a-user-namespace", true, bind, "65534:65534"},
		} {
			t.Run(c.name, func(t *testing.T) {
				logged(t, w)
				leaveNothing(t, w)
				mount := []oci.SpecOpts{oci.WithMounts([]specs.Mount{c.mount})}
				args := []string{"stat", "-c", "%u:%g", "/volume/file"}
				s := newScriptSpec(t, w, harness.LXC(), c.name, mount, args...)
				if c.userNS {
					s = remapped(t, w, harness.LXC(), c.name, 200000, mount, args...)
				}
				out := &harness.Stdio{}
				require.NoError(t, s.Create(s.ctx, out))
				s.start()
				s.wait()
				require.NoError(t, out.Wait(within(t, 30*time.Second)))
				assert.Equal(t, c.want+"\n", out.Out())
			})
		}
	})
}

// A createContainer hook has the rights of the container's root: it may work in
// the root file system, from the bundle.
func TestCreateContainerHookInAUserNamespace(t *testing.T) {
	onEachHost(t, 4, func(t *testing.T, w *place) {
		logged(t, w)
		leaveNothing(t, w)
		hooked := func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "id -u > rootfs/hook"}, Env: []string{"PATH=/usr/bin:/bin"}}}}
			return nil
		}
		s := newScriptSpec(t, w, harness.UserNS(""), "hook", []oci.SpecOpts{hooked}, "stat", "-c", "%u %s", "/hook")
		out := &harness.Stdio{}
		require.NoError(t, s.Create(s.ctx, out))
		s.start()
		s.wait()
		require.NoError(t, out.Wait(within(t, 30*time.Second)))
		assert.Equal(t, "0 2\n", out.Out())
	})
}

// TestRootInUserNamespaces shows that the properties of the root file system
// mean the same there, ids in sysctls included.
func TestRootInUserNamespaces(t *testing.T) {
	onEachHost(t, 10, func(t *testing.T, w *place) {
		for _, r := range rootRows {
			t.Run(r.name, func(t *testing.T) { r.test(t, w, harness.UserNS("")) })
		}
	})
}
