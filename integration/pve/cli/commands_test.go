package cli_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

// ct makes a container of the lab's root file system, which sleeps.
func ct(t *testing.T, vmid int, options ...string) string {
	t.Helper()
	id := strconv.Itoa(vmid)
	must(t, append([]string{"pct", "create", id, "/srv/lab/empty.tar", "--rootfs", "/srv/lab/rootfs", "--ostype", "unmanaged",
		"--arch", "amd64", "--unprivileged", "0", "--memory", "64", "--swap", "0", "--entrypoint", "/bin/sleep 300"}, options...)...)
	t.Cleanup(func() { assert.Zero(t, run(t, "pct", "destroy", id, "--force", "1").rc) })
	return id
}

// image is a root file system as a tar stream, with a configuration in front
// as a backup has it.
func image(t *testing.T, conf string) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, mode int64, data []byte) {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data))}))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	if conf != "" {
		file("./etc/vzdump/pct.conf", 0o644, []byte(conf))
	}
	file("./bin/busybox", 0o755, busybox)
	for _, name := range []string{"sh", "sleep", "cat"} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "./bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

const backupOf = "arch: amd64\ncmode: shell\nhostname: original\nmemory: 64\nostype: unmanaged\nrootfs: local-zfs:subvol-1-disk-0,size=1G\n" +
	"tags: nexcage\nlxc.init.cmd: /bin/sleep 300\nlxc.include: /dev/null\n"

func TestRestoreFromAPipeTakesTheConfigurationInIt(t *testing.T) {
	for name, rootfs := range map[string]string{"directory": "local-zfs:1", "image": "local:0.1", "directory of a dir storage": "local:0"} {
		t.Run(name, func(t *testing.T) {
			r := feed(t, image(t, backupOf), "pct", "restore", "7201", "-", "--rootfs", rootfs, "--unprivileged", "0", "--hostname", "mine")
			require.Zero(t, r.rc, r.err)
			defer run(t, "pct", "destroy", "7201", "--force")
			assert.Contains(t, r.out, "extracting archive from STDIN\n")
			assert.Contains(t, r.out, "merging backed-up and given configuration..\n")
			conf := must(t, "pct", "config", "7201")
			assert.Contains(t, conf, "hostname: mine\n", "given")
			assert.Contains(t, conf, "tags: nexcage\n", "from the backup")
			assert.Contains(t, conf, "lxc.init.cmd: /bin/sleep 300\nlxc.include: /dev/null\n", "raw lines")
			must(t, "pct", "start", "7201")
			assert.Equal(t, "mine\n", must(t, "pct", "exec", "7201", "--", "cat", "/proc/sys/kernel/hostname"))
			must(t, "pct", "stop", "7201")
			must(t, "pct", "destroy", "7201")
			for _, dir := range []string{"/var/lib/vz/rpool/data", "/var/lib/vz/images"} {
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				assert.Empty(t, left, dir)
			}
		})
	}
}

func TestUnprivilegedContainerOwnsItsFiles(t *testing.T) {
	r := feed(t, image(t, backupOf), "pct", "restore", "7202", "-", "--rootfs", "local-zfs:1", "--unprivileged", "1")
	require.Zero(t, r.rc, r.err)
	defer run(t, "pct", "destroy", "7202", "--force")
	var st unix.Stat_t
	require.NoError(t, unix.Lstat("/var/lib/vz/rpool/data/subvol-7202-disk-0/bin/busybox", &st))
	assert.EqualValues(t, 100000, st.Uid)
	must(t, "pct", "start", "7202")
	assert.Contains(t, must(t, "pct", "exec", "7202", "--", "cat", "/proc/self/uid_map"), "100000      65536")
	assert.Contains(t, must(t, "pct", "config", "7202"), "unprivileged: 1\n")
}

func TestTemplateIsClonedWithoutACopyWhereTheStorageCan(t *testing.T) {
	require.Zero(t, feed(t, image(t, backupOf), "pct", "restore", "7203", "-", "--rootfs", "local-zfs:1").rc)
	defer run(t, "pct", "destroy", "7203")
	must(t, "pct", "template", "7203")
	assert.Contains(t, must(t, "pct", "config", "7203"), "rootfs: local-zfs:basevol-7203-disk-0,size=1G\nswap: 512\ntags: nexcage\ntemplate: 1\n")
	assert.Equal(t, "you can't start a CT if it's a template\n", run(t, "pct", "start", "7203").err)

	must(t, "pct", "clone", "7203", "7204", "--hostname", "copy")
	conf := must(t, "pct", "config", "7204")
	assert.Contains(t, conf, "rootfs: local-zfs:basevol-7203-disk-0/subvol-7204-disk-0,size=1G\n")
	assert.Contains(t, conf, "lxc.include: /dev/null\n", "raw lines are copied")
	assert.NotContains(t, conf, "template")
	r := run(t, "pct", "destroy", "7203")
	assert.Equal(t, 255, r.rc)
	assert.Contains(t, r.err, "is still in use by linked cloned")
	must(t, "pct", "start", "7204")
	must(t, "pct", "stop", "7204")
	must(t, "pct", "destroy", "7204")
	must(t, "pct", "destroy", "7203")
}

func TestWhatCannotBeClonedSaysWhy(t *testing.T) {
	id := ct(t, 7205)
	assert.Equal(t, result{255, "", "unable to clone mountpoint 'rootfs' (type bind)\n"}, run(t, "pct", "clone", id, "7206"))
	must(t, "pct", "start", id)
	assert.Equal(t, result{255, "", "Full clone of a running container is only possible from a snapshot\n"}, run(t, "pct", "clone", id, "7206"))
	require.Zero(t, feed(t, image(t, backupOf), "pct", "restore", "7207", "-", "--rootfs", "local:0.1").rc)
	defer run(t, "pct", "destroy", "7207")
	must(t, "pct", "template", "7207")
	assert.Equal(t, result{255, "", "Linked clone feature for 'local:7207/base-7207-disk-0.raw' is not available\n"}, run(t, "pct", "clone", "7207", "7208"))
	must(t, "pct", "clone", "7207", "7208", "--full")
	must(t, "pct", "destroy", "7208")
}

func TestSnapshotAndItsClone(t *testing.T) {
	assert.Equal(t, result{255, "", "snapshot feature is not available\n"}, run(t, "pct", "snapshot", ct(t, 7209), "s1"))
	require.Zero(t, feed(t, image(t, backupOf), "pct", "restore", "7210", "-", "--rootfs", "local-zfs:1").rc)
	defer run(t, "pct", "destroy", "7210", "--force")
	must(t, "pct", "start", "7210")
	must(t, "pct", "snapshot", "7210", "s1")
	assert.Equal(t, "snapshot name 's1' already used\n", run(t, "pct", "snapshot", "7210", "s1").err)
	must(t, "pct", "clone", "7210", "7211", "--snapname", "s1")
	must(t, "pct", "destroy", "7211")
	assert.Equal(t, "unable to rollback vm 7210: vm is running\n", run(t, "pct", "rollback", "7210", "s1").err)
	must(t, "pct", "exec", "7210", "--", "sh", "-c", "echo x >/new")
	must(t, "pct", "stop", "7210")
	must(t, "pct", "rollback", "7210", "s1")
	assert.NoFileExists(t, "/var/lib/vz/rpool/data/subvol-7210-disk-0/new")
	must(t, "pct", "delsnapshot", "7210", "s1")
	assert.Equal(t, "`-> current                                             You are here!\n", must(t, "pct", "listsnapshot", "7210"))
}

func TestForbiddenRawLinesGoAtTheNextWrite(t *testing.T) {
	id := ct(t, 7212)
	conf := host.ConfPath(7212)
	f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("lxc.include: /dev/null\nlxc.no_new_privs: 1\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r := run(t, "pct", "set", id, "--memory", "100")
	assert.Equal(t, result{0, "", "vm 7212 - unable to parse config: lxc.no_new_privs: 1\n"}, r)
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	assert.Contains(t, string(text), "lxc.include: /dev/null\n")
	assert.NotContains(t, string(text), "no_new_privs")
}

func TestShutdownRebootAndTheEndOfItself(t *testing.T) {
	id := ct(t, 7213)
	must(t, "pct", "start", id)
	r := run(t, "pct", "shutdown", id, "--timeout", "1")
	assert.Equal(t, 255, r.rc)
	assert.Equal(t, "container did not stop\n", r.err, "sleep as process 1 ignores the signal")
	assert.Contains(t, r.out, "command 'lxc-stop -n 7213 --nokill --timeout 1' failed: exit code 1\n")
	before, err := lxc.InitPid(7213)
	require.NoError(t, err)
	must(t, "pct", "reboot", id, "--timeout", "1")
	after, err := lxc.InitPid(7213)
	require.NoError(t, err)
	assert.NotEqual(t, before, after)
	must(t, "pct", "shutdown", id, "--forceStop", "1", "--timeout", "1")
	assert.Equal(t, "status: stopped\n", must(t, "pct", "status", id))
}

func TestBridgeAndDevice(t *testing.T) {
	id := ct(t, 7214, "--net0", "name=eth0,bridge=vmbr0,ip=10.9.0.7/24,gw=10.9.0.1,host-managed=1", "--dev0", "/dev/fuse,mode=0666")
	must(t, "pct", "start", id)
	assert.Contains(t, must(t, "pct", "exec", id, "--", "ip", "-4", "addr", "show", "eth0"), "inet 10.9.0.7/24")
	ports, err := exec.Command("ip", "-o", "link", "show", "master", "vmbr0").Output()
	require.NoError(t, err)
	assert.Contains(t, string(ports), "veth7214i0")
	assert.Contains(t, must(t, "pct", "exec", id, "--", "ls", "-l", "/dev/fuse"), "crw-rw-rw-")
	assert.Contains(t, must(t, "pct", "config", id), "hwaddr=BC:24:11:")
	must(t, "pct", "stop", id)
	must(t, "pct", "set", id, "--net0", "name=eth0,bridge=nosuch")
	assert.Equal(t, "bridge 'nosuch' does not exist\n", run(t, "pct", "start", id).err)
}

func TestPctIsKilledButItsWorkerWorksOn(t *testing.T) {
	n := lab(t)
	id := ct(t, 7215)
	require.NoError(t, n.SetFaults(host.Fault{Command: "hook pre-start", DelayMS: 500}))
	defer func() { require.NoError(t, n.SetFaults()) }()
	begin := time.Now()
	killed := start(t, "pct", "start", id)
	time.Sleep(200 * time.Millisecond) // in the middle of the hook
	require.NoError(t, killed.Process.Kill())
	assert.Error(t, killed.Wait())
	assert.Zero(t, run(t, "pct", "set", id, "--onboot", "0").rc, "waits for the worker's lock")
	assert.Greater(t, time.Since(begin), 450*time.Millisecond)
	assert.Equal(t, "status: running\n", must(t, "pct", "status", id))
}

func TestFaults(t *testing.T) {
	n := lab(t)
	id := ct(t, 7216)
	for name, tc := range map[string]struct {
		fault host.Fault
		argv  []string
		want  result
	}{
		"locked":         {host.Fault{Command: "pct start", Error: "locked"}, []string{"pct", "start", id}, result{255, "", "CT is locked (backup)\n"}},
		"no quorum":      {host.Fault{Command: "pct start", Error: "no-quorum"}, []string{"pct", "start", id}, result{255, "", "cluster not ready - no quorum?\n"}},
		"lock busy":      {host.Fault{Command: "pct set", Error: "lock-timeout"}, []string{"pct", "set", id, "--onboot", "1"}, result{4, "", "trying to acquire lock...can't lock file '/run/lock/lxc/pve-config-7216.lock' - got timeout\n"}},
		"of our own":     {host.Fault{Command: "pct destroy", RC: 7, Stdout: "o\n", Stderr: "e"}, []string{"pct", "destroy", id}, result{7, "o\n", "e\n"}},
		"no space":       {host.Fault{Command: "pct create", Error: "storage-full"}, []string{"pct", "create", "7217", "/srv/lab/empty.tar", "--rootfs", "local-zfs:1", "--ostype", "unmanaged", "--arch", "amd64"}, result{255, "zfs error: cannot create 'rpool/data/subvol-7217-disk-0': out of space\n", "unable to create CT 7217 - zfs error: cannot create 'rpool/data/subvol-7217-disk-0': out of space\n"}},
		"no file system": {host.Fault{Command: "pct status", Error: "down"}, []string{"pct", "status", id}, result{111, "", strings.Repeat("ipcc_send_rec[1] failed: Connection refused\n", 3) + "Unable to load access control list: Connection refused\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.fault.Times = 1
			require.NoError(t, n.SetFaults(tc.fault))
			assert.Equal(t, tc.want, run(t, tc.argv...))
			if tc.argv[1] == "create" {
				assert.Contains(t, run(t, "pct", "status", "7217").err, "does not exist")
			} else {
				assert.Equal(t, "status: stopped\n", must(t, "pct", "status", id), "the fault is over, and nothing happened")
			}
		})
	}
	t.Run("killed in the middle", func(t *testing.T) {
		require.NoError(t, n.SetFaults(host.Fault{Command: "pct restore", Kill: "middle", Times: 1}))
		assert.NotZero(t, feed(t, image(t, backupOf), "pct", "restore", "7218", "-", "--rootfs", "local-zfs:1").rc)
		assert.Contains(t, must(t, "pct", "config", "7218"), "lock: create\n")
		must(t, "pct", "unlock", "7218")
		must(t, "pct", "destroy", "7218")
	})
	calls, err := n.Calls()
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(calls), "pct restore 7218")
}

func TestNoQuorumStopsWhatChangesTheCluster(t *testing.T) {
	n := lab(t)
	id := ct(t, 7219)
	require.NoError(t, n.SetQuorum(false))
	defer func() { require.NoError(t, n.SetQuorum(true)) }()
	assert.Equal(t, result{255, "", "cluster not ready - no quorum?\n"}, run(t, "pct", "start", id))
	assert.Equal(t, "cluster not ready - no quorum?\n", run(t, "pct", "create", "7220", "/srv/lab/empty.tar", "--rootfs", "/srv/lab/rootfs").err)
	assert.NotZero(t, run(t, "pct", "destroy", id).rc)
	assert.NotZero(t, run(t, "pct", "set", id, "--onboot", "1").rc)
	require.NoError(t, n.SetQuorum(true))
	assert.Equal(t, "status: stopped\n", must(t, "pct", "status", id))
}

func TestOneOfManyCreatesWinsAnId(t *testing.T) {
	var all sync.WaitGroup
	results := make([]result, 8)
	for i := range results {
		all.Go(func() {
			results[i] = run(t, "pct", "create", "7221", "/srv/lab/empty.tar", "--rootfs", "/srv/lab/rootfs", "--ostype", "unmanaged", "--arch", "amd64")
		})
	}
	all.Wait()
	won := 0
	for _, r := range results {
		if r.rc == 0 {
			won++
			continue
		}
		assert.Contains(t, r.err, "CT 7221 already exists on node 'vm'")
	}
	assert.Equal(t, 1, won)
	must(t, "pct", "destroy", "7221")
}

func TestNextID(t *testing.T) {
	conf := filepath.Join(host.EtcPVE, "qemu-server/100.conf")
	lab(t)
	assert.Equal(t, "100\n", must(t, "pvesh", "get", "/cluster/nextid"))
	require.NoError(t, os.WriteFile(conf, []byte("memory: 512\n"), 0o640))
	defer os.Remove(conf)
	assert.Equal(t, "101\n", must(t, "pvesh", "get", "/cluster/nextid"))
	assert.Contains(t, run(t, "pvesh", "get", "/cluster/nextid", "--vmid", "100").err, "VM 100 already exists")
	assert.Equal(t, "VM 100 already exists on node 'vm'\n", run(t, "pct", "create", "100", "/srv/lab/empty.tar").err)
	assert.Contains(t, must(t, "pvesh", "get", "/version", "--output-format", "json"), `"release":"9.1"`)
}
