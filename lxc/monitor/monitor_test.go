package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithCancel(context.Background())
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

// The names are those of sockets that lxc-monitord 5.0.2 and 6.0.5 made.
func TestSocketName(t *testing.T) {
	assert.Equal(t, "@lxc/ad055575fe28ddd5//var/lib/lxc", name(t, "/var/lib/lxc"))
	assert.Equal(t, "@lxc/076674b7cdbf61f2//tmp/lm/p", name(t, "/tmp/lm/p"))
	_, err := socketName("/" + strings.Repeat("x", 83))
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.ErrorContains(t, err, "1 characters too long")
}

func name(t *testing.T, lxcpath string) string {
	t.Helper()
	address, err := socketName(lxcpath)
	require.NoError(t, err)
	return address
}

// shortDir is a directory whose path lxc-monitord takes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, os.RemoveAll(dir))
		// A real lxc-monitord that found a fake one has left its FIFO.
		_ = os.Remove(filepath.Join("/run/lxc", dir, "monitor-fifo"))
		_ = os.Remove(filepath.Join("/run/lxc", dir))
	})
	return dir
}

// fake is an lxc-monitord whose messages the test writes. It delivers its
// connections, and what their clients sent when they have ended.
type fake struct {
	conns chan net.Conn
	sent  chan string
}

func newFake(t *testing.T, lxcpath string) *fake {
	t.Helper()
	l, err := net.Listen("unix", name(t, lxcpath))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	f := &fake{conns: make(chan net.Conn, 8), sent: make(chan string, 8)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.conns <- conn
			go func() {
				b, _ := io.ReadAll(conn)
				conn.Close()
				f.sent <- string(b)
			}()
		}
	}()
	return f
}

func msg(kind int32, name string, value int32) message {
	m := message{Type: kind, Value: value}
	copy(m.Name[:], name)
	return m
}

func send(t *testing.T, conn net.Conn, messages ...message) {
	t.Helper()
	for _, m := range messages {
		require.NoError(t, binary.Write(conn, binary.NativeEndian, m))
	}
}

// watching returns a watcher of c1, connected to the fake.
func watching(t *testing.T) (*Watcher, *fake, net.Conn) {
	t.Helper()
	lxcpath := shortDir(t)
	f := newFake(t, lxcpath)
	return watch(t, lxcpath), f, <-f.conns
}

func watch(t *testing.T, lxcpath string) *Watcher {
	t.Helper()
	return watchName(t, lxcpath, "c1")
}

func watchName(t *testing.T, lxcpath, name string) *Watcher {
	t.Helper()
	w, err := Watch(t.Context(), lxcpath, name)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	return w
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestExitIsThatOfTheContainer(t *testing.T) {
	running := msg(typeState, "c1", starting)
	for name, tc := range map[string]struct {
		messages []message
		want     unix.WaitStatus
	}{
		"exit code":                     {[]message{running, msg(typeExitCode, "c1", 0x700)}, 0x700},
		"zero":                          {[]message{running, msg(typeExitCode, "c1", 0)}, 0},
		"signal":                        {[]message{running, msg(typeExitCode, "c1", 9)}, 9},
		"others' are passed over":       {[]message{running, msg(typeExitCode, "c", 1), msg(typeExitCode, "c11", 2), msg(typeExitCode, "c1", 3)}, 3},
		"other types are passed over":   {[]message{running, msg(typeState, "c1", 2), msg(1, "c1", 5), msg(typeExitCode, "c1", 3)}, 3},
		"a predecessor's is not taken":  {[]message{msg(typeExitCode, "c1", 1), running, msg(typeExitCode, "c1", 3)}, 3},
		"the first of a restart counts": {[]message{running, msg(typeExitCode, "c1", 1), running, msg(typeExitCode, "c1", 9)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, conn := watching(t)
			send(t, conn, tc.messages...)
			got, err := w.Exit(within(t, 10*time.Second))
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestExitEndsWithItsContext(t *testing.T) {
	w, _, _ := watching(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("LXC has ended")
	cancel(cause)
	_, err := w.Exit(ctx)
	assert.ErrorIs(t, err, cause)
	assert.ErrorContains(t, err, "c1")
}

// A client that does not read would stop lxc-monitord.
func TestEverythingIsReadWhetherSomebodyWaitsOrNot(t *testing.T) {
	w, _, conn := watching(t)
	send(t, conn, msg(typeState, "c1", starting), msg(typeExitCode, "c1", 0x300))
	require.NoError(t, conn.SetWriteDeadline(time.Now().Add(10*time.Second)))
	for range 5000 { // more than a socket's buffer holds
		send(t, conn, msg(typeState, "c2", 2))
	}
	got, err := w.Exit(within(t, 10*time.Second))
	require.NoError(t, err)
	assert.Equal(t, 3, got.ExitStatus())
}

func TestALostConnectionIsMadeAgain(t *testing.T) {
	w, f, conn := watching(t)
	send(t, conn, msg(typeState, "c1", starting))
	require.NoError(t, conn.Close())
	again := <-f.conns
	send(t, again, msg(typeExitCode, "c1", 0x400))
	got, err := w.Exit(within(t, 10*time.Second))
	require.NoError(t, err)
	assert.Equal(t, 4, got.ExitStatus())
}

func TestAMonitordThatKeepsEndingIsAnError(t *testing.T) {
	w, f, conn := watching(t)
	require.NoError(t, conn.Close())
	go func() {
		for conn := range f.conns {
			conn.Close()
		}
	}()
	_, err := w.Exit(within(t, 10*time.Second))
	assert.ErrorContains(t, err, "lxc-monitord")
}

func TestCloseLeavesAStrangersMonitordAlone(t *testing.T) {
	w, f, _ := watching(t)
	require.NoError(t, w.Close())
	assert.NotContains(t, <-f.sent, "quit")
	assert.NoFileExists(t, filepath.Join(w.lxcpath, lockName))
	require.NoError(t, w.Close(), "a second time")
}

// A connection that waits in the backlog hears nothing.
func TestWatchWaitsForTheAccept(t *testing.T) {
	lxcpath := shortDir(t)
	l, err := net.Listen("unix", name(t, lxcpath))
	require.NoError(t, err)
	defer l.Close()
	_, err = Watch(within(t, 50*time.Millisecond), lxcpath, "c1")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NoFileExists(t, filepath.Join(lxcpath, lockName))
}

func TestSweepOfNothing(t *testing.T) {
	assert.NoError(t, Sweep(shortDir(t)))
	assert.NoError(t, Sweep("/nosuch/lxcpath"))
}
