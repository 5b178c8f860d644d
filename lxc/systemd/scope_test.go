package systemd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for path, want := range map[string]struct{ unit, path string }{
		"system.slice:cri:c1": {"cri-c1.scope", "system.slice/cri-c1.scope"},
		":cri:c1":             {"cri-c1.scope", "system.slice/cri-c1.scope"},
		"-.slice:cri:c1":      {"cri-c1.scope", "cri-c1.scope"},
		"a.slice::c1":         {"c1.scope", "a.slice/c1.scope"},
		"kubepods-besteffort-pod1_2.slice:cri:abc": {"cri-abc.scope", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-abc.scope"},
		`a.slice:cri-containerd:x\x2dy`:            {`cri-containerd-x\x2dy.scope`, `a.slice/cri-containerd-x\x2dy.scope`},
	} {
		t.Run(path, func(t *testing.T) {
			assert.True(t, Is(path))
			s, err := Parse(path)
			require.NoError(t, err)
			assert.Equal(t, want.unit, s.Unit)
			p, err := s.Path()
			require.NoError(t, err)
			assert.Equal(t, want.path, p)
		})
	}
	for name, path := range map[string]string{
		"no name": "a.slice:cri:", "a slice": "a.slice:cri:b.slice", "no slice": "a:cri:c1", "empty part": "a--b.slice:cri:c1",
		"dash at the end": "a-.slice:cri:c1", "path": "a.slice:../..:c1", "line": "a.slice:cri:c\n1", "no part": ".slice:cri:c1", "up": "../a.slice:cri:c1",
		"long": "a.slice:cri:" + strings.Repeat("x", 255), "template": "a.slice:cri:c@1", "four": "a.slice:a:b:c",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(path)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, "linux.cgroupsPath: ")
		})
	}
	assert.False(t, Is("/a:b:c"))
	assert.False(t, Is("a/b"))
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a.slice:b:c", "::", ":a:b", "-.slice::x", "a-b.slice:\n:c", "../x.slice:a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, err := Parse(s)
		if err != nil {
			return
		}
		p, err := scope.Path()
		require.NoError(t, err)
		assert.NotContains(t, strings.Split(p, "/"), "..")
		assert.Equal(t, filepath.Clean(p), p)
		assert.NotContains(t, p, "\n")
		assert.Equal(t, scope.Unit, filepath.Base(p))
	})
}

func TestScopesNeedSystemd(t *testing.T) {
	was := Dir
	t.Cleanup(func() { Dir = was })
	Dir = "/nonexistent"
	err := Available("a.slice:b:c")
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.ErrorContains(t, err, `linux.cgroupsPath: "a.slice:b:c" is a systemd unit`)
	Dir = t.TempDir()
	assert.NoError(t, Available("a.slice:b:c"))
}

// manager stands for systemd on a bus of its own.
type manager struct {
	conn *dbus.Conn

	mu     sync.Mutex
	calls  []string
	props  map[string]dbus.Variant // of the last call
	result string                  // of jobs
	exists bool                    // a unit that failed is in the way
	jobs   int
}

type property1 struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property1
}

const (
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = "org.freedesktop.systemd1.Manager"
)

func failure(name string) *dbus.Error {
	return dbus.NewError("org.freedesktop.systemd1."+name, []any{"a reason"})
}

func (m *manager) note(call string, props []property1) {
	m.calls = append(m.calls, call)
	m.props = map[string]dbus.Variant{}
	for _, p := range props {
		m.props[p.Name] = p.Value
	}
}

// job answers with a job, and tells its end.
func (m *manager) job(unit string) (dbus.ObjectPath, *dbus.Error) {
	m.jobs++
	path := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", m.jobs))
	id, result := uint32(m.jobs), m.result
	time.AfterFunc(10*time.Millisecond, func() {
		_ = m.conn.Emit(managerPath, managerIface+".JobRemoved", id, path, unit, result)
	})
	return path, nil
}

func (m *manager) StartTransientUnit(name, mode string, props []property1, _ []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("start "+name+" "+mode, props)
	if m.exists {
		return "/", failure("UnitExists")
	}
	return m.job(name)
}

func (m *manager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("stop "+name+" "+mode, nil)
	if strings.HasPrefix(name, "gone") {
		return "/", failure("NoSuchUnit")
	}
	return m.job(name)
}

func (m *manager) ResetFailedUnit(name string) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("reset "+name, nil)
	m.exists = false
	return failure("NoSuchUnit")
}

func (m *manager) SetUnitProperties(name string, runtime bool, props []property1) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(fmt.Sprintf("set %s %v", name, runtime), props)
	return nil
}

// Get is org.freedesktop.DBus.Properties'.
func (m *manager) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	return dbus.MakeVariant("257 (257.9-1~deb13u1)"), nil
}

// fakeSystemd starts a bus with a manager on it, which connect then finds.
func fakeSystemd(t *testing.T) *manager {
	t.Helper()
	address := "unix:path=" + filepath.Join(t.TempDir(), "bus")
	daemon := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--nosyslog", "--print-address", "--address="+address)
	out, err := daemon.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	_, err = out.Read(make([]byte, 256)) // it listens
	require.NoError(t, err)

	m := &manager{result: "done"}
	m.conn, err = dbus.Connect(address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.conn.Close() })
	require.NoError(t, m.conn.Export(m, managerPath, managerIface))
	require.NoError(t, m.conn.Export(m, managerPath, "org.freedesktop.DBus.Properties"))
	reply, err := m.conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	require.NoError(t, err)
	require.Equal(t, dbus.RequestNameReplyPrimaryOwner, reply)

	was, wasInitial := connect, initialPIDs
	t.Cleanup(func() { connect, initialPIDs = was, wasInitial })
	initialPIDs = func() bool { return true }
	connect = func(context.Context) (*systemd.Conn, error) {
		return systemd.NewConnection(func() (*dbus.Conn, error) { return dbus.Connect(address) })
	}
	return m
}

func (m *manager) value(name string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.props[name].Value()
}

func (m *manager) called() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

func TestAScopeStartsChangesAndStops(t *testing.T) {
	m := fakeSystemd(t)
	s := Scope{Unit: "cri-c1.scope", Slice: "a.slice"}
	limit, more, pids := int64(64<<20), int64(96<<20), int64(50)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids}}
	require.NoError(t, s.Start(t.Context(), Process{PID: 4711}, r, true))
	assert.Equal(t, []string{"start cri-c1.scope fail"}, m.called())
	for name, want := range map[string]any{
		"Slice": "a.slice", "Delegate": true, "PIDs": []uint32{4711}, "DefaultDependencies": false, "MemoryAccounting": true,
		"CPUAccounting": true, "TasksAccounting": true, "IOAccounting": true, "MemoryMax": uint64(limit), "TasksMax": uint64(50),
	} {
		assert.Equal(t, want, m.value(name), name)
	}

	require.NoError(t, s.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &more}}, true))
	assert.Equal(t, uint64(more), m.value("MemoryMax"))
	require.NoError(t, s.Update(t.Context(), &specs.LinuxResources{}, true), "nothing for the unit")
	require.NoError(t, s.Stop(t.Context()))
	assert.Equal(t, []string{"start cri-c1.scope fail", "set cri-c1.scope true", "stop cri-c1.scope replace", "reset cri-c1.scope"}, m.called())
	require.NoError(t, Scope{Unit: "gone.scope"}.Stop(t.Context()), "one that is gone is no error")
}

func ownPidfd(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestTheProcessIsNamedByItsPidfd(t *testing.T) {
	f := ownPidfd(t)
	require.NoError(t, startWithPIDFD(f, func(p systemd.Property) error {
		assert.Equal(t, "PIDFDs", p.Name)
		fds := p.Value.Value().([]dbus.UnixFD)
		require.Len(t, fds, 1)
		return unix.PidfdSendSignal(int(fds[0]), 0, nil, 0)
	}))
}

// A pid of another namespace would be another process's on the host. The
// manager here is one that does not take pidfds.
func TestAPidIsOnlyGivenWhereItMeansTheSame(t *testing.T) {
	m := fakeSystemd(t)
	s := Scope{Unit: "cri-c1.scope", Slice: "a.slice"}
	p := Process{PID: os.Getpid(), PIDFD: ownPidfd(t)}
	require.NoError(t, s.Start(t.Context(), p, nil, true))
	assert.Equal(t, []uint32{uint32(os.Getpid())}, m.value("PIDs"))

	initialPIDs = func() bool { return false }
	err := s.Start(t.Context(), p, nil, true)
	require.ErrorContains(t, err, "linux.cgroupsPath: ")
	require.ErrorContains(t, err, "not in the host's pid namespace")
	assert.Len(t, m.called(), 1, "nothing was moved")
}

func TestAUnitThatFailedIsNotInTheWay(t *testing.T) {
	m := fakeSystemd(t)
	m.exists = true
	s := Scope{Unit: "cri-c1.scope", Slice: "a.slice"}
	require.NoError(t, s.Start(t.Context(), Process{PID: 1}, nil, true))
	assert.Equal(t, []string{"start cri-c1.scope fail", "reset cri-c1.scope", "start cri-c1.scope fail"}, m.called())
}

func TestAScopeThatDoesNotStart(t *testing.T) {
	m := fakeSystemd(t)
	m.result = "failed"
	s := Scope{Unit: "cri-c1.scope", Slice: "a.slice"}
	require.EqualError(t, s.Start(t.Context(), Process{PID: 1}, nil, true), `linux.cgroupsPath: start the systemd unit cri-c1.scope: the job's result is "failed"`)

	connect = func(context.Context) (*systemd.Conn, error) { return nil, context.DeadlineExceeded }
	for _, err := range []error{s.Start(t.Context(), Process{PID: 1}, nil, true), s.Update(t.Context(), nil, true), s.Stop(t.Context())} {
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "linux.cgroupsPath: ")
	}
}
