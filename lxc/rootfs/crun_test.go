package rootfs

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// crunSpec is containerd's default, with cgroups.
func crunSpec() *specs.Spec {
	flags := []string{"nosuid", "noexec", "nodev"}
	mount := func(dest, fsType, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: fsType, Source: source, Options: options}
	}
	spec := &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"}, Hostname: "cage",
		Process: &specs.Process{Cwd: "/", Args: []string{"/bin/busybox", "cat", "/proc/self/mountinfo"}, Env: []string{"PATH=/bin"}},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc", flags...),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("/dev/shm", "tmpfs", "shm", append([]string{"mode=1777", "size=65536k"}, flags...)...),
			mount("/dev/mqueue", "mqueue", "mqueue", flags...),
			mount("/sys", "sysfs", "sysfs", append([]string{"ro"}, flags...)...),
			mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", append([]string{"ro"}, flags...)...),
		},
		Linux: &specs.Linux{
			CgroupsPath: "/nexcage-rootfs-test",
			MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		},
	}
	for _, n := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.CgroupNamespace} {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return spec
}

// runCrun returns what the process of the bundle prints. crun refuses hosts
// that have cgroup2 beside v1, so it does not get to see that: in a mount
// namespace of its own.
func runCrun(t *testing.T, bundle string, spec *specs.Spec) string {
	t.Helper()
	config, err := json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bundle+"/config.json", config, 0o644))
	cmd := exec.Command("/proc/self/exe", "--root", t.TempDir(), "--cgroup-manager", "cgroupfs", "run", "--bundle", bundle, "nexcage-rootfs-test")
	cmd.Env = append(os.Environ(), roleVar+"="+roleCrun)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out)
}

func becomeCrun(args []string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(hostCgroups, &fs); err != nil {
		return err
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		_ = unix.Unmount(hostCgroups+"/unified", unix.MNT_DETACH) // perhaps there is none
	}
	path, err := exec.LookPath("crun")
	if err != nil {
		return err
	}
	return unix.Exec(path, append([]string{"crun"}, args...), os.Environ())
}

func TestMountsAreThoseOfCrun(t *testing.T) {
	bundle := t.TempDir()
	image := bundle + "/rootfs"
	busybox, err := os.ReadFile("/usr/bin/busybox")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(image+"/bin", 0o755))
	require.NoError(t, os.WriteFile(image+"/bin/busybox", busybox, 0o755))
	spec := crunSpec()
	p, err := oci.Translate(bundle, spec)
	require.NoError(t, err)

	crun := normalise(runCrun(t, bundle, spec))
	c := startContainer(t, allNew)
	build(t, c, p)
	ours := c.mounts()

	ofSpec := func(line string) bool {
		dest := strings.Fields(line)[1]
		return !slices.Contains(p.MaskedPaths, dest) && !slices.Contains(p.ReadonlyPaths, dest) && !strings.HasPrefix(dest, hostCgroups)
	}
	inSpec := func(lines []string) (selected []string) {
		for _, line := range lines {
			if ofSpec(line) {
				selected = append(selected, line)
			}
		}
		return selected
	}
	assert.Equal(t, inSpec(crun), inSpec(ours), "the mounts of the spec, in its order")

	// What covers a path differs (crun takes the host's /dev/null), and the
	// order of hierarchies; not where, nor the type of a hierarchy.
	places := func(lines []string) (dests []string) {
		for _, line := range lines {
			if !ofSpec(line) {
				dests = append(dests, strings.Fields(line)[1])
			}
		}
		slices.Sort(dests)
		return dests
	}
	assert.Equal(t, places(crun), places(ours))
}
