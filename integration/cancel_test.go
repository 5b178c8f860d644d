package integration

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestCancelledCreateLeavesNothing cancels Create at every moment of its way:
// while the start verb runs, before and after the shim was asked, when the
// container is just there.
func TestCancelledCreateLeavesNothing(t *testing.T) {
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		if rt.Backend != "lxc" && os.Getenv("NEXCAGE_TEST_REFERENCE") == "" {
			t.Skip("containerd's own code, which leaves something now and then")
		}
		logged(t, w)
		leaveNothing(t, w)
		t.Cleanup(func() { settled(t, w) })
		cancelled := 0
		for i := range 40 {
			s := newScript(t, w, rt, "cancelled", forever...)
			s.stdio = &harness.Stdio{Null: true}
			ctx, cancel := context.WithTimeout(s.ctx, time.Duration(i+1)*1500*time.Microsecond)
			err := s.Create(ctx, s.stdio)
			if err != nil {
				<-ctx.Done()
				cancelled++
				t.Logf("%.1f ms: %v", float64(i+1)*1.5, err)
			}
			cancel()
			if i >= 10 && err == nil {
				break // it is quicker than that
			}
		}
		assert.Positive(t, cancelled)
	})
}

// settled waits for the end of shims that nobody has connected with, and removes
// the socket of a start verb that was killed between bind(2) and fork(2), where
// nobody is left who could do so.
func settled(t *testing.T, w *place) {
	t.Helper()
	for _, pid := range shims(t) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
		require.NoError(t, err)
		assert.Equal(t, 1, n, "the shim did not end")
		require.NoError(t, unix.Close(fd))
	}
	old, err := filepath.Glob("/run/containerd/s/*") // where those before 2.3 have them
	require.NoError(t, err)
	sockets, err := filepath.Glob(filepath.Join(w.Dir, "s", "*"))
	require.NoError(t, err)
	for _, s := range append(old, sockets...) {
		conn, err := net.Dial("unix", s)
		if err == nil {
			require.NoError(t, conn.Close())
		} else if assert.ErrorIs(t, err, unix.ECONNREFUSED) {
			t.Logf("removed dead socket %s", s)
			require.NoError(t, os.Remove(s))
		}
	}
}

// TestStubbornLogger has a binary:// logger that neither ends nor heeds SIGTERM:
// the shim ends it, and only then itself.
func TestStubbornLogger(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		logged(t, w)
		leaveNothing(t, w)
		dir := t.TempDir()
		program := filepath.Join(dir, "logger")
		require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\ntrap '' TERM\nexec 5>&-\nexec sleep 1000\n"), 0o755))
		s := newScript(t, w, rt, "stubborn-logger", "true")
		s.stdio = &harness.Stdio{Stdout: "binary://" + program}
		s.create()
		shim := shims(t)[s.ID]
		require.NotZero(t, shim, "the shim's process")
		fd, err := unix.PidfdOpen(shim, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		s.start()
		s.wait()
		s.delete()
		assert.Equal(t, []string{"create: ok", "start: ok", "exit: 0", "delete: 0"}, s.log)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		require.NoError(t, err)
		assert.Equal(t, 1, n, "the shim did not end")
	})
}

// TestAnIDWhoseDeletionFailedCanBeUsedAgain leaves a container behind as a
// delete verb does that could not do its work, and creates one of the same id.
func TestAnIDWhoseDeletionFailedCanBeUsedAgain(t *testing.T) {
	newest(t, func(t *testing.T, w *place, rt harness.Runtime) {
		if rt.Reference {
			t.Skip("keeps no record")
		}
		logged(t, w)
		leaveNothing(t, w)
		s := newScript(t, w, rt, "left", forever...)
		s.stdio = &harness.Stdio{Null: true}
		s.create()
		s.start()
		require.NoError(t, s.last)
		bundle := filepath.Join(w.Dir, "state", "io.containerd.runtime.v2.task", w.Namespace, s.ID)
		require.DirExists(t, bundle)
		require.NoError(t, os.Rename(filepath.Join(bundle, "nexcage"), filepath.Join(bundle, "lost")), "the delete verb's way to the record")
		murder(t, shims(t)[s.ID])
		s.awaitEvent("delete 137")
		// containerd forgets the task a little after it has said so.
		require.Eventually(t, func() bool { _, err := s.State(s.ctx, ""); return errdefs.IsNotFound(err) }, slow(10*time.Second), time.Millisecond)
		require.DirExists(t, filepath.Join("/run/nexcage", w.Namespace, s.ID))

		s.log = nil
		s.create()
		s.start()
		require.NoError(t, s.last)
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()
		assert.Equal(t, []string{"create: ok", "start: ok", "kill 9: ok", "exit: 137", "delete: 137"}, s.log)
	})
}
