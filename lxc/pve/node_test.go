package pve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/lxc/base"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// newConfig returns a container for a node.
func newConfig(t *testing.T, id string) *Config {
	t.Helper()
	dir := t.TempDir()
	c := &Config{
		About:    About{Namespace: "k8s.io", ID: id, Command: []string{"sleep", "1"}},
		Settings: Settings{Range: Range{900000, 900009}},
		StateDir: filepath.Join(dir, "state"),
		Base:     base.Dir(filepath.Join(dir, "state", "base")),
		Helper:   "/usr/libexec/nexcage/nexcage-init",
		Rootfs:   filepath.Join(dir, "rootfs"),
		Hostname: "web",
		Halt:     "SIGTERM",
		Lines:    []lxcconf.Line{lxcconf.Set("lxc.uts.name", "web")},
	}
	require.NoError(t, os.MkdirAll(c.StateDir, 0o700))
	require.NoError(t, os.MkdirAll(c.Rootfs, 0o700))
	return c
}

func reserved(t *testing.T, n *Node, c *Config) int {
	t.Helper()
	var vmid int
	require.NoError(t, n.Reserve(t.Context(), &Client{}, c, func(id int) error { vmid = id; return nil }))
	return vmid
}

func ptr[T any](v T) *T { return &v }

func TestManyReserveDistinctVMIDs(t *testing.T) {
	n := newNode(t)
	vms := `{"version":7,"ids":{"900002":{"node":"vm","type":"qemu"},"900004":{"node":"other","type":"lxc"}}}`
	require.NoError(t, os.WriteFile(filepath.Join(n.Etc, ".vmlist"), []byte(vms), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(n.LXC, "900006"), 0o700), "of a former owner")
	foreign := n.confPath(900005)
	require.NoError(t, os.WriteFile(foreign, []byte("arch: amd64\n"), 0o600), "which the list does not know yet")
	var mu sync.Mutex
	got := map[int]bool{}
	var wg sync.WaitGroup
	for i := range 6 {
		c := newConfig(t, fmt.Sprint("c", i))
		wg.Go(func() {
			id := reserved(t, n, c)
			mu.Lock()
			defer mu.Unlock()
			got[id] = true
		})
	}
	wg.Wait()
	assert.Equal(t, map[int]bool{900000: true, 900001: true, 900003: true, 900007: true, 900008: true, 900009: true}, got)
	text, err := os.ReadFile(foreign)
	require.NoError(t, err)
	assert.Equal(t, "arch: amd64\n", string(text))

	err = n.Reserve(t.Context(), &Client{}, newConfig(t, "c7"), func(int) error { return nil })
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	assert.ErrorContains(t, err, "no VMID is free from 900000 to 900009")
}

func TestAVMIDIsLeftAloneForAWhileAfterItsEnd(t *testing.T) {
	n := newNode(t)
	first := reserved(t, n, newConfig(t, "c1"))
	require.NoError(t, os.Remove(n.confPath(first)))
	assert.Equal(t, first+1, reserved(t, n, newConfig(t, "c2")))
}

func TestAFixedVMIDIsTakenOrRefused(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	c.VMID = 4711
	assert.Equal(t, 4711, reserved(t, n, c))
	other := newConfig(t, "c2")
	other.VMID = 4711
	err := n.Reserve(t.Context(), &Client{}, other, func(int) error { return errors.New("not reached") })
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	assert.ErrorContains(t, err, "VMID 4711 is in use")
}

func TestTheConfigurationShowsTheContainer(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	c.About = About{Namespace: "k8s.io", ID: "c1", Image: "docker.io/library/nginx:1", Pod: "default/web-0", Command: []string{"nginx", "-g", "daemon `off`;\n"}}
	c.Tags, c.Features = []string{"team-a"}, "nesting=1"
	lan, err := ParseNet(0, "ip=10.0.0.2/24,hwaddr=BC:24:11:00:00:01", "vmbr0")
	require.NoError(t, err)
	c.Nets = []Net{lan}
	c.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(100<<20 + 1)), Swap: ptr(int64(150 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(150000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(1024))},
	}
	text, err := c.conf(n, 900000)
	require.NoError(t, err)
	golden(t, "ct.conf", generic(c, text))
}

// generic is a configuration without what is of this test and machine.
func generic(c *Config, text []byte) string {
	return strings.NewReplacer(c.Rootfs, "/b/rootfs", c.StateDir, "/state", "arch: "+arch(), "arch: amd64").Replace(string(text))
}

func TestLXCsKeysTakeTheImageFromLXC(t *testing.T) {
	n := &Node{Name: "vm", LXC: "/var/lib/lxc"}
	c := &Config{StateDir: "/run/nexcage/ns/c1", Base: "/run/nexcage/ns/c1/base", Helper: "/usr/libexec/nexcage/nexcage-init",
		Halt: "SIGQUIT", Cgroup: "kubepods/pod1/c1", Lines: []lxcconf.Line{lxcconf.Set("lxc.uts.name", "web")}}
	lines, err := c.lines(n, 900000)
	require.NoError(t, err)
	text, err := lxcconf.Marshal(lines)
	require.NoError(t, err)
	golden(t, "include.conf", string(text))
}

func TestProxmoxsNetworkTakesThePlaceOfTheSpecs(t *testing.T) {
	lan, err := ParseNet(0, "ip=10.0.0.2/24", "vmbr0")
	require.NoError(t, err)
	c := &Config{Settings: Settings{Nets: []Net{lan}}, StateDir: "/s", Base: "/b", Helper: "/h",
		Lines: []lxcconf.Line{lxcconf.Set("lxc.net.0.type", "empty"), lxcconf.Set("lxc.net.0.flags", "up")}}
	lines, err := c.lines(&Node{LXC: "/var/lib/lxc"}, 900000)
	require.NoError(t, err)
	assert.NotContains(t, lines, lxcconf.Set("lxc.net.0.type", "empty"))
	assert.Contains(t, lines, lxcconf.Set("lxc.net.0.ipv4.address", "10.0.0.2/24"))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestWhatAHookCanNotQuoteIsRefused(t *testing.T) {
	_, err := command("/bin/mount", "/a'b")
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestMemoryIsTheLimitOrAllThereIs(t *testing.T) {
	all := memory(nil)
	assert.Greater(t, all, int64(16))
	for name, tc := range map[string]struct {
		memory       specs.LinuxMemory
		memory0, swp int64
	}{
		"a limit":           {specs.LinuxMemory{Limit: ptr(int64(64 << 20))}, 64, 0},
		"rounded up":        {specs.LinuxMemory{Limit: ptr(int64(64<<20 + 1))}, 65, 0},
		"less than allowed": {specs.LinuxMemory{Limit: ptr(int64(1 << 20))}, 16, 0},
		"unlimited":         {specs.LinuxMemory{Limit: ptr(int64(-1))}, all, 0},
		"no limit":          {specs.LinuxMemory{}, all, 0},
		"with swap":         {specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20))}, 64, 32},
		"without swap":      {specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))}, 64, 0},
	} {
		r := &specs.LinuxResources{Memory: &tc.memory}
		assert.Equal(t, tc.memory0, memory(r), name)
		assert.Equal(t, tc.swp, swap(r), name)
	}
}

func TestNamesThatProxmoxAccepts(t *testing.T) {
	for in, want := range map[string]string{
		"web": "web", "My_App.example": "My-App.example", "-a-": "a", "": "ct", "...": "ct", "ü": "ct",
		strings.Repeat("x", 70): strings.Repeat("x", 63), "a..b": "a.b",
	} {
		assert.Equal(t, want, hostname(in), in)
	}
	long := hostname(strings.Repeat("abcdefghi.", 40))
	assert.LessOrEqual(t, len(long), 253)
	assert.Equal(t, "a.b;nexcage;ns-k8s.io;x-y", tags("x y", "nexcage", "ns-k8s.io", "-a.b", "nexcage", "!"))
}

func FuzzTheConfigurationOfAnyContainer(f *testing.F) {
	f.Add("c1", "web", "sh -c x", "image", "pod")
	f.Add("", "\n", "\x00", "`", "%")
	f.Fuzz(func(t *testing.T, id, host, command, image, pod string) {
		c := &Config{About: About{Namespace: id, ID: id, Command: []string{command}, Image: image, Pod: pod}, Rootfs: "/", Hostname: host, StateDir: "/run/x"}
		text, err := c.conf(&Node{Name: "vm"}, 900000)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		conf := ParseConf(text)
		require.True(t, conf.isOurs("vm", 900000), "%q", text)
		require.LessOrEqual(t, len(conf.Get("hostname")), 253)
	})
}

func TestRemoveTakesTheCTAndItsFiles(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid := reserved(t, n, c)
	id := fmt.Sprint(vmid)
	for _, d := range []string{"rootfs", "passthrough"} {
		require.NoError(t, os.MkdirAll(filepath.Join(n.LXC, id, d), 0o755))
	}
	for _, f := range []string{filepath.Join(n.LXC, id, "config"), filepath.Join(n.Run, "ct-"+id+".stderr"), filepath.Join(n.Etc, "firewall", id+".fw")} {
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	for range 2 { // the second finds nothing
		require.NoError(t, n.Remove(t.Context(), vmid, c.include(n.Name, vmid)))
		assert.NoFileExists(t, n.confPath(vmid))
		assert.NoDirExists(t, filepath.Join(n.LXC, id))
		assert.NoFileExists(t, filepath.Join(n.Run, "ct-"+id+".stderr"))
		assert.NoFileExists(t, filepath.Join(n.Etc, "firewall", id+".fw"))
	}
}

func TestRemoveLeavesWhatIsSomebodyElsesByNow(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid := reserved(t, n, c)
	const users = "tags: nexcage\nrootfs: local:vm-900000-disk-0\nlxc.include: /x/vm-900000.conf\n"
	require.NoError(t, os.WriteFile(n.confPath(vmid), []byte(users), 0o600))
	require.NoError(t, n.Remove(t.Context(), vmid, c.include(n.Name, vmid)))
	assert.FileExists(t, n.confPath(vmid))
}

func TestRemoveOfALockedCTIsLeftForLater(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid := reserved(t, n, c)
	text, err := os.ReadFile(n.confPath(vmid))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.confPath(vmid), append([]byte("lock: backup\n"), text...), 0o600))
	err = n.Remove(t.Context(), vmid, c.include(n.Name, vmid))
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	assert.ErrorContains(t, err, "CT is locked (backup)")
	assert.FileExists(t, n.confPath(vmid))
}

func TestRemoveWaitsForProxmoxsLock(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid := reserved(t, n, c)
	held, err := n.lock(t.Context(), vmid)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, n.Remove(ctx, vmid, c.include(n.Name, vmid)), errdefs.ErrUnavailable)
	done := make(chan error)
	go func() { done <- n.Remove(t.Context(), vmid, c.include(n.Name, vmid)) }()
	held.release()
	require.NoError(t, <-done)
	assert.NoFileExists(t, n.confPath(vmid))
}

func TestGCRemovesWhatIsOursAndNotInUse(t *testing.T) {
	n := newNode(t)
	used, garbage, locked := newConfig(t, "used"), newConfig(t, "garbage"), newConfig(t, "locked")
	usedID, garbageID, lockedID := reserved(t, n, used), reserved(t, n, garbage), reserved(t, n, locked)
	text, err := os.ReadFile(n.confPath(lockedID))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.confPath(lockedID), append([]byte("lock: snapshot\n"), text...), 0o600))
	clone := n.confPath(123)
	text, err = os.ReadFile(n.confPath(garbageID))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(clone, text, 0o600))

	removed, err := n.GC(t.Context(), func(dir string, vmid int) bool { return dir == used.StateDir && vmid == usedID })
	assert.Equal(t, []int{garbageID}, removed)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	assert.ErrorContains(t, err, fmt.Sprintf("CT %d: CT is locked (snapshot)", lockedID))
	assert.FileExists(t, n.confPath(usedID))
	assert.FileExists(t, clone, "the user's")
	assert.NoFileExists(t, n.confPath(garbageID))
}

func TestGCSparesWhatIsBeingCreated(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid, l, err := n.reserve(t.Context(), 0, c.Range, func(vmid int) ([]byte, error) { return c.conf(n, vmid) })
	require.NoError(t, err)
	var known sync.Map // what is on record
	looked := make(chan struct{}, 2)
	type result struct {
		removed []int
		err     error
	}
	done := make(chan result)
	go func() {
		removed, err := n.GC(context.Background(), func(_ string, id int) bool {
			looked <- struct{}{}
			_, ok := known.Load(id)
			return ok
		})
		done <- result{removed, err}
	}()
	<-looked // it is not on record yet
	known.Store(vmid, true)
	l.release()
	r := <-done
	require.NoError(t, r.err)
	assert.Empty(t, r.removed)
	assert.FileExists(t, n.confPath(vmid))
}

func TestACreateRemovesTheLeftoverOfItsName(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	first := reserved(t, n, c)
	second := reserved(t, n, c)
	assert.NotEqual(t, first, second)
	assert.NoFileExists(t, n.confPath(first))
	assert.FileExists(t, n.confPath(second))
	assert.Equal(t, second, n.marked("k8s.io", "c1"))
	require.NoError(t, n.Unmark("k8s.io", "c1", first), "not of this one")
	assert.Equal(t, second, n.marked("k8s.io", "c1"))
	require.NoError(t, n.Unmark("k8s.io", "c1", second))
	assert.Zero(t, n.marked("k8s.io", "c1"))
}

// listen is where lxc-start of a CT listens: this process.
func listen(t *testing.T, n *Node, vmid int) {
	t.Helper()
	l, err := net.Listen("unix", n.commandSocket(vmid))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
}

func TestLXCStartIsFoundByItsSocket(t *testing.T) {
	n := newNode(t)
	n.LXC = t.Name() // sun_path is short
	_, err := n.monitor(900000)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	listen(t, n, 900000)
	pid, err := n.monitor(900000)
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), pid)
}

func TestAStartThatFailsTellsWhy(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	vmid := reserved(t, n, c)
	client, calls := newClient(t, map[string]answer{"start": {Stderr: "startup for container '900000' failed\n", Stdout: "no bridge\n", Code: 255}})
	i, err := n.Start(t.Context(), client, vmid, c)
	require.NoError(t, err)
	<-i.Done()
	require.EqualError(t, i.Failure(), "pct start 900000: exit status 255: startup for container '900000' failed; no bridge")
	require.Error(t, i.Ready(t.Context()))
	assert.Equal(t, "start 900000\n", calls())
	assert.Zero(t, i.Monitor())
	i.Ended()
	assert.FileExists(t, c.include(n.Name, vmid))
}

func TestACTThatEndsAtOnceTellsWhatLXCSaid(t *testing.T) {
	n := newNode(t)
	n.LXC = t.Name()
	c := newConfig(t, "c1")
	client, _ := newClient(t, map[string]answer{"start": {}})
	require.NoError(t, os.WriteFile(filepath.Join(n.Run, "ct-900000.stderr"), []byte("lxc-start: 900000: oops\n"), 0o600))
	i, err := n.Start(t.Context(), client, 900000, c)
	require.NoError(t, err)
	defer i.Ended()
	<-i.Done()
	assert.ErrorContains(t, i.Failure(), "oops")
}

func TestAdoptFindsLXCStart(t *testing.T) {
	n := newNode(t)
	c := newConfig(t, "c1")
	client, _ := newClient(t, map[string]answer{"start": {}})
	i, err := n.Start(t.Context(), client, 900000, c)
	require.NoError(t, err)
	defer i.Ended()
	require.NoError(t, i.Adopt(os.Getpid()))
	assert.Equal(t, os.Getppid(), i.Monitor())
	require.NoError(t, i.Ready(t.Context()))
	select {
	case <-i.Done():
		t.Error("it still runs")
	default:
	}
}

func TestErrorsOfTheClustersFileSystem(t *testing.T) {
	assert.ErrorIs(t, clusterError(os.ErrPermission), errdefs.ErrUnavailable)
	assert.ErrorContains(t, clusterError(os.ErrPermission), "no quorum?")
	assert.ErrorIs(t, clusterError(os.ErrExist), errdefs.ErrAlreadyExists)
	_, err := Local("/x")
	if _, serr := os.Stat("/etc/pve/local"); serr != nil {
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		assert.False(t, Detect())
	}
}
