package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestSpecUserNamespaces is about mappings of ids, of a container and of a
// mount. TestUserNamespaceOfTheSpec has more about what they mean for files.
func TestSpecUserNamespaces(t *testing.T) { onEachBackend(t, each(usernsRows)) }

const firstHostID = 200000

// mapped gives a container a user namespace, in which nobody may make the
// directory /run of the image's root.
func mapped(s *specs.Spec) {
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/run" })
	setNamespace(s, specs.UserNamespace, "")
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstHostID, Size: 1000}, {ContainerID: 1000, HostID: firstHostID + 5000, Size: 10}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstHostID + 7000, Size: 2000}}
}

var usernsRows = []row{
	{
		name: "id-mappings", fields: []string{
			"linux.uidMappings[].containerID", "linux.uidMappings[].hostID", "linux.uidMappings[].size",
			"linux.gidMappings[].containerID", "linux.gidMappings[].hostID", "linux.gidMappings[].size",
		},
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			s.Process.User = specs.User{UID: 1000, GID: 1000}
		},
		look: func(x *shown) {
			assert.NotEqual(x.t, readlink(x.t, "/proc/self/ns/user"), x.namespace("user"))
			assert.Equal(x.t, []string{"0", "200000", "1000", "1000", "205000", "10"}, words(x.procFile("uid_map")))
			assert.Equal(x.t, []string{"0", "207000", "2000"}, words(x.procFile("gid_map")))
			assert.Equal(x.t, "205000 205000 205000 205000", x.status("Uid"))
			assert.Equal(x.t, "208000 208000 208000 208000", x.status("Gid"))
		},
	},
	{
		name: "id-mappings-overlap", fields: []string{"linux.uidMappings"}, refused: "linux.uidMappings[", flaw: upTo("1.21", leavesGroups).on(cgroupV2),
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			s.Linux.UIDMappings[1].ContainerID = 999
		},
	},
	{
		name: "mount-id-mappings", crun: "1.9", fields: []string{
			"mounts[].uidMappings[].containerID", "mounts[].uidMappings[].hostID", "mounts[].uidMappings[].size",
			"mounts[].gidMappings[].containerID", "mounts[].gidMappings[].hostID", "mounts[].gidMappings[].size", "mounts[].options",
		},
		spec: func(x *shown, s *specs.Spec) {
			file := filepath.Join(x.dir, "file")
			require.NoError(x.t, os.WriteFile(file, nil, 0o644))
			require.NoError(x.t, unix.Chown(file, 3, 4))
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/bound", Type: "bind", Source: x.dir, Options: []string{"bind", "idmap"},
				UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 500, Size: 100}},
				GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 700, Size: 100}},
			})
		},
		args: []string{"stat", "-c", "%u:%g", "/bound/file"}, want: "503:704\n",
	},
	{
		name: "hook-in-a-user-namespace", fields: []string{"hooks.createContainer", "linux.uidMappings"},
		spec: func(x *shown, s *specs.Spec) {
			mapped(s)
			x.dir = filepath.Join(harness.Dir(), "hook") // which others than root may enter
			require.NoError(x.t, os.Mkdir(x.dir, 0o700))
			require.NoError(x.t, os.Chmod(x.dir, 0o777))
			x.t.Cleanup(func() { assert.NoError(x.t, os.RemoveAll(x.dir)) })
			addHook(s, "createContainer", hook("createContainer", "cat > /dev/null; id -u > $1/uid; readlink /proc/self/ns/user > $1/user", x.dir))
		},
		look: func(x *shown) {
			assert.Equal(x.t, "0\n", x.hostFile("uid"))
			assert.Equal(x.t, x.namespace("user")+"\n", x.hostFile("user"))
		},
	},
	{
		name: "sysctl-of-the-user-namespace", fields: []string{"linux.sysctl"}, flaw: upTo("1.21", "takes none of this namespace"),
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			s.Process.User.UID = 7
			s.Linux.Sysctl = map[string]string{"user.max_user_namespaces": "7", "user/max_mnt_namespaces": "8"}
		},
		look: func(x *shown) {
			assert.Equal(x.t, "7\n8\n", x.inside("cat", "/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_mnt_namespaces"))
			host, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
			require.NoError(x.t, err)
			assert.NotEqual(x.t, "7\n", string(host))
		},
	},
	{
		name: "sysctl-of-the-user-namespace-unknown", fields: []string{"linux.sysctl"}, refused: `linux.sysctl["user/no_such"]`,
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			s.Linux.Sysctl = map[string]string{"user.no_such": "7"}
		},
	},
	{
		name: "host-pids-in-a-user-namespace", fields: []string{"linux.namespaces[].type", "mounts[].type"},
		spec: func(x *shown, s *specs.Spec) {
			mapped(s)
			dropNamespace(s, specs.PIDNamespace)
			s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind", "nosuid", "nodev", "noexec"}}
			if x.backend == "crun" {
				// crun 1.8.1 opens the host's /proc outside of the container: where
				// that is shared, as under systemd, what covers paths below it
				// covers the host's as well.
				s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			}
		},
		look: func(x *shown) {
			assert.Equal(x.t, readlink(x.t, "/proc/self/ns/pid"), x.namespace("pid"))
			assert.NotEqual(x.t, readlink(x.t, "/proc/self/ns/user"), x.namespace("user"))
			assert.Equal(x.t, itoa(int(x.Pid))+"\n", x.inside("sh", "-c", "cat /proc/"+itoa(int(x.Pid))+"/stat | cut -d' ' -f1"))
			assert.Contains(x.t, x.inside("sh", "-c", "kill -0 "+itoa(os.Getpid())), "Operation not permitted")
		},
	},
	{
		name: "procfs-of-the-host-in-a-user-namespace", fields: []string{"linux.namespaces[].type", "mounts[].type"}, refused: "mounts[0].type",
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			dropNamespace(s, specs.PIDNamespace)
		},
	},
	delegation("cgroup-delegation", 0),
	withFlaw(byDesign("gives it to the container's root"), delegation("cgroup-delegation-to-the-user", 7)),
}

// delegation is a container whose user may divide its control group.
func delegation(name string, uid uint32) row {
	return row{
		name: name, fields: []string{"linux.cgroupsPath", "mounts[].options", "linux.namespaces[].type", "process.user.uid"}, needs: []need{cgroupV2},
		spec: func(_ *shown, s *specs.Spec) {
			mapped(s)
			setNamespace(s, specs.CgroupNamespace, "")
			s.Process.User.UID = uid
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime"}})
		},
		look: func(x *shown) {
			dir := filepath.Join("/sys/fs/cgroup", x.cgroupsOf(int(x.Pid))["0:"])
			for file, want := range map[string]uint32{"": firstHostID + uid, "cgroup.procs": firstHostID + uid, "cgroup.subtree_control": firstHostID + uid, "pids.max": 0} {
				var st unix.Stat_t
				require.NoError(x.t, unix.Stat(filepath.Join(dir, file), &st))
				assert.Equal(x.t, want, st.Uid, "owner of %q", file)
			}
			assert.Empty(x.t, x.inside("mkdir", "/sys/fs/cgroup/below"))
			assert.DirExists(x.t, filepath.Join(dir, "below"))
		},
	}
}
