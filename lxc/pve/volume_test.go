package pve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
)

func newVolumes(t *testing.T) *Volumes {
	return &Volumes{Node: newNode(t), Client: &Client{}, Dir: filepath.Join(t.TempDir(), "nexcage")}
}

const keptConf = `#notes of its former life
arch: amd64
cores: 2
cpulimit: 1
hostname: old
memory: 64
mp0: local-zfs:subvol-900001-disk-1,mp=/data,size=1G
net0: name=eth0
onboot: 1
ostype: unmanaged
rootfs: local-zfs:basevol-900000-disk-0/subvol-900001-disk-0,size=9G
startup: order=1
swap: 0
tags: mine;nexcage;ns-k8s.io
lxc.include: /run/nexcage/k8s.io/web/vm-900001.conf
lxc.mount.entry: /srv srv none bind 0 0

[before]
arch: amd64
rootfs: local-zfs:basevol-900000-disk-0/subvol-900001-disk-0,size=9G
`

// A container gets the CT that it had, with its own configuration, what an
// operator has added, and the snapshots.
func TestConfigureKeepsWhatIsTheOperators(t *testing.T) {
	v := newVolumes(t)
	h := &Held{Node: v.Node.Name, VMID: 900001}
	path := v.Node.confPath(h.VMID)
	text := keptConf
	h.Node = v.Node.Name
	require.NoError(t, os.WriteFile(path, []byte(sub(text, "vm-900001", v.Node.Name+"-900001")), 0o600))
	c := newConfig(t, "web")
	require.NoError(t, v.configure(t.Context(), c, h, h.isIn))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	conf := ParseConf(got)
	for key, want := range map[string]string{
		"cores": "2", "mp0": "local-zfs:subvol-900001-disk-1,mp=/data,size=1G", "startup": "order=1", // the operator's
		"rootfs": "local-zfs:basevol-900000-disk-0/subvol-900001-disk-0,size=9G", "tags": "mine;nexcage;ns-k8s.io",
		"hostname": "web", "onboot": "0", // the container's
		"cpulimit": "", "net0": "", // which it does not have any more
	} {
		assert.Equal(t, want, conf.Get(key), key)
	}
	assert.NotContains(t, conf.Description, "former life")
	assert.Equal(t, c.include(v.Node.Name, h.VMID), conf.include())
	assert.Contains(t, string(got), "lxc.mount.entry: /srv srv none bind 0 0\n")
	_, snapshots, _ := strings.Cut(text, "\n[")
	_, kept, _ := strings.Cut(string(got), "\n[")
	assert.Equal(t, snapshots, kept)
}

// Whatever an operator has made of a configuration, the CT stays the container's.
func FuzzMerge(f *testing.F) {
	f.Add(keptConf)
	f.Add("a: b\na: c\nlxc.include: /x\nlxc.include: /y\ntags: nexcage-template;x\n")
	f.Fuzz(func(t *testing.T, text string) {
		own := func() *Conf {
			return &Conf{
				Props: []Prop{{"memory", "16"}, {"rootfs", "a:vm-100-disk-0"}, {"tags", "nexcage"}},
				Raw:   []Prop{{"lxc.include", "/run/vm-100.conf"}},
			}
		}
		made, err := merge(ParseConf([]byte(text)), own()).Marshal()
		if err != nil {
			return // what the format can not express is said, and nothing written
		}
		got := ParseConf(append(made, rest([]byte(text))...))
		assert.Equal(t, "16", got.Get("memory"))
		assert.Equal(t, "a:vm-100-disk-0", got.Get("rootfs"))
		assert.Contains(t, got.Tags(), Tag)
		assert.NotContains(t, got.Tags(), TemplateTag)
		assert.Equal(t, "/run/vm-100.conf", got.include())
	})
}

func sub(text, from, to string) string { return strings.ReplaceAll(text, from, to) }

// The next life of a CT has its MAC addresses, but for those that are asked for.
func TestConfigureKeepsMACAddresses(t *testing.T) {
	v := newVolumes(t)
	h := &Held{Node: v.Node.Name, VMID: 900001}
	text := sub(sub(keptConf, "/vm-9", "/"+v.Node.Name+"-9"), "net0: name=eth0",
		"net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth\nnet1: name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,type=veth")
	require.NoError(t, os.WriteFile(v.Node.confPath(h.VMID), []byte(text), 0o600))
	c := newConfig(t, "web")
	for i, text := range []string{"ip=dhcp", "hwaddr=02:00:00:00:00:01"} {
		n, err := ParseNet(i, text, "vmbr0")
		require.NoError(t, err)
		c.Nets = append(c.Nets, n)
	}
	require.NoError(t, v.configure(t.Context(), c, h, h.isIn))
	conf, err := v.Node.conf(h.VMID)
	require.NoError(t, err)
	assert.Contains(t, conf.Get("net0"), "hwaddr=BC:24:11:00:00:01,ip=dhcp")
	assert.Contains(t, conf.Get("net1"), "hwaddr=02:00:00:00:00:01")
}

// What is locked is not touched, nor is somebody else's.
func TestConfigureLeavesOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"locked":           {sub(keptConf, "memory: 64", "memory: 64\nlock: backup"), errdefs.ErrUnavailable},
		"a clone":          {sub(keptConf, "vm-900001.conf", "vm-900007.conf"), errdefs.ErrNotFound},
		"without the tag":  {sub(keptConf, "mine;nexcage;", "mine;"), errdefs.ErrNotFound},
		"another's volume": {sub(keptConf, "rootfs: local-zfs:basevol-900000-disk-0/subvol-900001-", "rootfs: local-zfs:subvol-900007-"), errdefs.ErrNotFound},
		"a directory":      {sub(keptConf, "rootfs: local-zfs:basevol-900000-disk-0/subvol-900001-disk-0", "rootfs: /srv/900001-"), errdefs.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolumes(t)
			h := &Held{Node: v.Node.Name, VMID: 900001}
			text := sub(tc.text, "/vm-9", "/"+v.Node.Name+"-9")
			require.NoError(t, os.WriteFile(v.Node.confPath(h.VMID), []byte(text), 0o600))
			require.ErrorIs(t, v.configure(t.Context(), newConfig(t, "web"), h, h.isIn), tc.want)
			got, err := os.ReadFile(v.Node.confPath(h.VMID))
			require.NoError(t, err)
			assert.Equal(t, text, string(got))
		})
	}
}

// Whoever has the lock of a record knows that nobody else works on it, also
// after its file was removed and made again.
func TestGuard(t *testing.T) {
	v := newVolumes(t)
	path := v.heldPath(900001)
	g, err := v.guard(t.Context(), path, unix.LOCK_EX)
	require.NoError(t, err)
	other, err := v.tryGuard(path)
	require.NoError(t, err)
	assert.Nil(t, other)
	waited := make(chan *guard)
	go func() {
		w, err := v.guard(t.Context(), path, unix.LOCK_EX)
		assert.NoError(t, err)
		waited <- w
	}()
	require.NoError(t, g.drop())
	w := <-waited
	_, err = os.Stat(path + guardSuffix)
	require.NoError(t, err, "the one who waited has a file that others find")
	other, err = v.tryGuard(path)
	require.NoError(t, err)
	assert.Nil(t, other)
	w.release()
}

func TestFindNeedsTheSameSnapshot(t *testing.T) {
	v := newVolumes(t)
	id := image.ID{Path: "/snapshots/1/fs", Inode: 5, Born: 7}
	_, err := v.Find(id)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, os.MkdirAll(v.heldDir(), 0o700))
	require.NoError(t, v.Save(&Held{Node: v.Node.Name, VMID: 900001, Snapshot: id, Made: true}))
	require.NoError(t, v.Save(&Held{Node: "elsewhere", VMID: 900002, Snapshot: image.ID{Path: "/other"}}))
	h, err := v.Find(id)
	require.NoError(t, err)
	assert.Equal(t, 900001, h.VMID)
	for _, other := range []image.ID{{Path: id.Path, Inode: 6, Born: 7}, {Path: id.Path, Inode: 5, Born: 8}, {Path: "/other"}} {
		_, err := v.Find(other)
		require.ErrorIs(t, err, errdefs.ErrNotFound, fmt.Sprint(other))
	}
	require.NoError(t, os.WriteFile(v.heldPath(900003), []byte("{"), 0o600))
	_, err = v.Find(id)
	require.Error(t, err)
	assert.False(t, errors.Is(err, errdefs.ErrNotFound), "it may be the one that can not be read")
}

func TestOnlyABareReservationIsAPlaceholder(t *testing.T) {
	assert.True(t, isPlaceholder(ParseConf([]byte("lock: create\n"))))
	for _, text := range []string{"", "lock: backup\n", "lock: create\narch: amd64\n", "#notes\nlock: create\n", "lock: create\nlxc.x: y\n"} {
		assert.False(t, isPlaceholder(ParseConf([]byte(text))), text)
	}
}

func TestTemplatesByAge(t *testing.T) {
	now := time.Now()
	old := UnusedSince(now.Add(-time.Hour))
	assert.True(t, old(Template{Used: now.Add(-2 * time.Hour)}))
	assert.False(t, old(Template{Used: now.Add(-time.Minute)}))
}

// A template has clones by the name of its volume, in the whole cluster, or by our records.
func TestClonesOfATemplate(t *testing.T) {
	v := newVolumes(t)
	tpl := Template{Node: v.Node.Name, VMID: 900000, Key: "k", Storage: "local-zfs", GiB: 8}
	none, err := v.Clones(tpl)
	require.NoError(t, err)
	assert.Empty(t, none)
	write := func(node string, vmid int, rootfs string) {
		dir := filepath.Join(v.Node.Etc, "nodes", node, "lxc")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.conf", vmid)), []byte("rootfs: "+rootfs+"\n"), 0o600))
	}
	write(v.Node.Name, 900000, "local-zfs:basevol-900000-disk-0,size=8G")
	write(v.Node.Name, 100, "local-zfs:basevol-900000-disk-0/subvol-100-disk-0,size=8G")
	write("other", 101, "local-zfs:basevol-900000-disk-0/subvol-101-disk-0,size=8G")
	write(v.Node.Name, 102, "local-zfs:subvol-102-disk-0,size=8G")
	require.NoError(t, os.MkdirAll(v.heldDir(), 0o700))
	require.NoError(t, v.Save(&Held{VMID: 900001, Template: tpl.name()}))
	require.NoError(t, v.Save(&Held{VMID: 900002, Template: "another"}))
	clones, err := v.Clones(tpl)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"100", "101", "900001"}, clones)
	tpl.Full = true
	clones, err = v.Clones(tpl)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"100", "101"}, clones, "copies do not need it")
}
