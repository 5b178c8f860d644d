package helper

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

func TestListenWorksInADeepDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 60))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	l, err := Listen(dir)
	require.NoError(t, err)
	fi, err := os.Stat(dir + "/sock")
	require.NoError(t, err)
	assert.Equal(t, os.ModeSocket|0o600, fi.Mode())
	_, err = Listen(dir)
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.NoError(t, l.Close())
	assert.NoFileExists(t, dir+"/sock")
	require.NoError(t, l.Close())
}

func TestListenNeedsADirectory(t *testing.T) {
	_, err := Listen("/nowhere")
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "/nowhere")
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l, err := Listen(t.TempDir())
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	_, err = l.Accept(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestAcceptRemovesTheSocketSoThatARestartEnds(t *testing.T) {
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	copyFile(t, "nexcage-init", init)
	l, err := Listen(dir)
	require.NoError(t, err)
	first := startChild(t, exec.Command(init))
	conn, err := l.Accept(t.Context())
	require.NoError(t, err)
	defer conn.PIDFD().Close()
	assert.NoFileExists(t, dir+"/sock")
	second := startChild(t, exec.Command(init))
	<-second.Done()
	assert.Equal(t, initop.ExitConnect, second.Exit().Status)
	require.NoError(t, conn.Close())
	<-first.Done()
	assert.Equal(t, initop.ExitEOF, first.Exit().Status)
}

func TestHelperRefusesBadArguments(t *testing.T) {
	for name, args := range map[string][]string{
		"not a number": {"x"}, "negative": {"-1"}, "empty": {""}, "not open": {"77"},
		"two": {"3", "4"}, "huge": {"99999999999999999999"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startChild(t, exec.Command(filepath.Join(built, "nexcage-init"), args...))
			<-c.Done()
			assert.Equal(t, initop.ExitUsage, c.Exit().Status)
		})
	}
}

func TestHelperBecomesTheFirstProcessOfAContainer(t *testing.T) {
	conn, c := connect(t, &exec.Cmd{SysProcAttr: &syscall.SysProcAttr{Cloneflags: allNamespaces}})
	assert.Equal(t, c.Pid(), conn.PID(), "as seen by the shim")
	assert.Equal(t, c.Pid(), pidOf(t, conn.PIDFD()))
	require.NoError(t, conn.Exec(t.Context(), program("sh", "-c", "exit $(($$ + 6))")))
	<-c.Done()
	assert.Equal(t, 7, c.Exit().Status)
}

func TestPIDFDTellsTheEndWithoutAThread(t *testing.T) {
	conn, _ := waiting(t)
	raw, err := conn.PIDFD().SyscallConn()
	require.NoError(t, err)
	require.NoError(t, conn.PIDFD().SetReadDeadline(time.Now().Add(10*time.Second)), "known to the poller")
	require.NoError(t, conn.Close())
	require.NoError(t, raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || err != nil
	}))
}

func TestPIDFDBeforeLinux65(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[0])
	pidfd, err := pidfdOfConnected(fds[0], os.Getpid())
	require.NoError(t, err)
	require.NoError(t, unix.Close(pidfd))
	require.NoError(t, unix.Close(fds[1]))
	_, err = pidfdOfConnected(fds[0], os.Getpid())
	assert.ErrorIs(t, err, unix.ESRCH)
}

func TestRunAndExecRefuseWhatTheyWouldNotWaitFor(t *testing.T) {
	conn, _ := waiting(t)
	f := tempFile(t)
	assert.ErrorIs(t, conn.Run(t.Context(), program("true")), errdefs.ErrInvalidArgument)
	assert.ErrorIs(t, conn.Run(t.Context(), []initop.Op{initop.Fork()}), errdefs.ErrInvalidArgument)
	assert.ErrorIs(t, conn.Exec(t.Context(), []initop.Op{initop.Umask(0)}), errdefs.ErrInvalidArgument)
	assert.ErrorIs(t, conn.Run(t.Context(), []initop.Op{initop.Umask(0)}, f), errdefs.ErrInvalidArgument)
	assert.ErrorIs(t, conn.Run(t.Context(), []initop.Op{initop.WriteFD(1, []byte("x"))}, f), errdefs.ErrInvalidArgument)
	assert.NoError(t, conn.Run(t.Context(), []initop.Op{initop.Umask(0)}), "nothing was sent")
}

func TestExecWithoutLookupIsRefused(t *testing.T) {
	conn, c := waiting(t)
	err := conn.Exec(t.Context(), []initop.Op{initop.Exec([]string{"x"}, nil)})
	assert.ErrorIs(t, err, errdefs.ErrInternal)
	<-c.Done()
	assert.Equal(t, initop.ExitMalformed, c.Exit().Status)
}

func TestAHelperThatIsGoneIsAnError(t *testing.T) {
	for name, call := range map[string]func(*Conn) error{
		"run":  func(c *Conn) error { return c.Run(context.Background(), []initop.Op{initop.Umask(0)}) },
		"exec": func(c *Conn) error { return c.Exec(context.Background(), program("true")) },
	} {
		t.Run(name, func(t *testing.T) {
			conn, c := waiting(t)
			require.NoError(t, unix.PidfdSendSignal(int(conn.PIDFD().Fd()), unix.SIGKILL, nil, 0))
			<-c.Done()
			assert.ErrorIs(t, call(conn), errdefs.ErrUnavailable)
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	conn, c := waiting(t)
	r, w := pipe(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := conn.Run(ctx, []initop.Op{initop.WriteFD(0, make([]byte, 1<<20))}, w)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	w.Close()
	r.Close() // the helper's write fails now, and nobody listens
	<-c.Done()
}

func TestRepliesThatAreNoneAreErrors(t *testing.T) {
	ok := make([]byte, initop.ReplySize)
	copy(ok, "NXC1")
	with := func(kind byte, index byte) []byte {
		b := append([]byte(nil), ok...)
		b[4], b[8] = kind, index
		return b
	}
	for name, sent := range map[string][]byte{
		"short": ok[:7], "magic": make([]byte, initop.ReplySize), "kind": with(9, 0),
		"forked without a descriptor": with(initop.ReplyForked, 0), "index": with(initop.ReplyFailed, 1),
	} {
		t.Run(name, func(t *testing.T) {
			s, end, err := pair()
			require.NoError(t, err)
			defer s.Close()
			c, err := net.FileConn(end)
			require.NoError(t, err)
			end.Close()
			_, err = c.Write(sent)
			require.NoError(t, err)
			require.NoError(t, c.(*net.UnixConn).CloseWrite())
			assert.Error(t, s.Run(t.Context(), []initop.Op{initop.Umask(0)}))
			c.Close()
		})
	}
}
