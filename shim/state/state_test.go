package state

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
)

func newDir(t *testing.T) Dir {
	d, err := DirOf(filepath.Join(t.TempDir(), "nexcage"), "ns", "c1")
	require.NoError(t, err)
	require.NoError(t, d.Make())
	return d
}

func full() *State {
	return &State{
		OCIVersion: "1.3.0", ID: "c1", Status: "running", PID: 42, Bundle: "/b", Annotations: map[string]string{"a": "b"},
		Namespace: "ns", Backend: "lxc", Reason: "routing.default_backend", PodBackend: "lxc", Host: "native",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Shim: lxc.Proc{PID: 40, StartTime: 998},
		LXC: &lxc.Record{Bundle: "/b", StateDir: "/s", Rootfs: "/b/rootfs", LXCPath: "/l", Name: "c1", Cgroups: []string{"/g"},
			Init: lxc.Proc{PID: 42, StartTime: 1000}, Monitor: lxc.Proc{PID: 41, StartTime: 999}},
		Crun: &options.Options{BinaryName: "crun", Root: "/r", SystemdCgroup: true, IoUid: 1000},
		Exit: &Exit{Status: 137, At: time.Date(2026, 1, 2, 3, 4, 6, 7, time.UTC)},
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	d := newDir(t)
	for name, s := range map[string]*State{
		"full":  full(),
		"small": {OCIVersion: "1.1.0", ID: "c1", Status: "creating", Bundle: "/b", Namespace: "ns", Backend: "crun", Reason: "x", CreatedAt: time.Unix(1, 0).UTC()},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, d.Write(s))
			got, err := d.Read()
			require.NoError(t, err)
			assert.Equal(t, s, got)
		})
	}
}

// Tools that know the runtime-spec can read it.
func TestTheStateIsThatOfTheRuntimeSpec(t *testing.T) {
	d := newDir(t)
	require.NoError(t, d.Write(full()))
	b, err := os.ReadFile(filepath.Join(string(d), "state.json"))
	require.NoError(t, err)
	var got specs.State
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, specs.State{Version: "1.3.0", ID: "c1", Status: specs.StateRunning, Pid: 42, Bundle: "/b",
		Annotations: map[string]string{"a": "b"}}, got)
}

func TestTheStateIsForRootOnly(t *testing.T) {
	d := newDir(t)
	require.NoError(t, d.Write(full()))
	for path, want := range map[string]os.FileMode{
		string(d):                              os.ModeDir | 0o700,
		filepath.Join(string(d), "state.json"): 0o600,
	} {
		i, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, i.Mode())
	}
}

func TestACrashWhileWritingLeavesTheOldState(t *testing.T) {
	d := newDir(t)
	require.NoError(t, d.Write(full()))
	half := filepath.Join(string(d), "state.json.new")
	require.NoError(t, os.WriteFile(half, []byte(`{"ociVersion": "1.`), 0o600))
	got, err := d.Read()
	require.NoError(t, err)
	assert.Equal(t, full(), got)

	require.NoError(t, d.Write(&State{ID: "c1"})) // is not hindered
	got, err = d.Read()
	require.NoError(t, err)
	assert.Equal(t, &State{ID: "c1"}, got)
	_, err = os.Stat(half)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestReadIsStrict(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field":               `{"id": "c1", "vm": 100}`,
		"unknown field of the record": `{"lxc": {"x": 1}}`,
		"type":                        `{"pid": "1"}`,
		"half":                        `{"id": "c1"`,
		"empty":                       ``,
		"two":                         `{"id": "c1"} {"id": "c2"}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			path := filepath.Join(string(d), "state.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := d.Read()
			require.ErrorContains(t, err, path)
		})
	}
}

func TestReadSaysThatThereIsNone(t *testing.T) {
	_, err := newDir(t).Read()
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = Dir(filepath.Join(t.TempDir(), "none")).Read()
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestAContainerHasADirectoryOfItsOwn(t *testing.T) {
	d := newDir(t)
	require.ErrorIs(t, d.Make(), errdefs.ErrAlreadyExists)
	other, err := DirOf(filepath.Dir(filepath.Dir(string(d))), "ns2", "c1")
	require.NoError(t, err)
	require.NoError(t, other.Make())
}

func TestIdentifiersDoNotLeadElsewhere(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "/", "a\x00b", "a\nb", "-a"} {
		for _, id := range [][2]string{{bad, "c1"}, {"ns", bad}} {
			_, err := DirOf("/run/nexcage", id[0], id[1])
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%q", id)
		}
	}
	d, err := DirOf("/run/nexcage", "k8s.io", "a_b-c.1")
	require.NoError(t, err)
	assert.Equal(t, Dir("/run/nexcage/k8s.io/a_b-c.1"), d)
}

func TestRemoveRemovesFilesOnly(t *testing.T) {
	d := newDir(t)
	require.NoError(t, d.Write(full()))
	require.NoError(t, os.WriteFile(filepath.Join(string(d), "lxc-start.log"), nil, 0o600))
	require.NoError(t, d.Remove())
	_, err := os.Stat(string(d))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, d.Remove()) // again

	for _, inside := range []string{"base/root", "empty"} {
		d = newDir(t)
		require.NoError(t, d.Write(full()))
		require.NoError(t, os.MkdirAll(filepath.Join(string(d), inside), 0o700))
		err = d.Remove()
		require.ErrorIs(t, err, unix.EISDIR)
		require.ErrorContains(t, err, filepath.Join(string(d), filepath.Dir(inside)))
		require.DirExists(t, filepath.Join(string(d), inside))
		_, err = d.Read()
		require.NoError(t, err, "what is needed to try again stays")
	}
}

func FuzzRead(f *testing.F) {
	b, err := json.Marshal(full())
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"lxc": null, "crun": {}, "exit": {"at": "2026-01-02T03:04:05Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := Dir(t.TempDir())
		require.NoError(t, os.WriteFile(filepath.Join(string(d), "state.json"), b, 0o600))
		s, err := d.Read()
		if err != nil {
			return
		}
		require.NoError(t, d.Write(s))
		again, err := d.Read()
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
