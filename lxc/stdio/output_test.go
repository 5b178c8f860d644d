package stdio

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOutputArrivesWhole(t *testing.T) {
	const size = 1 << 20
	for _, scheme := range []string{"", "fifo://"} {
		t.Run("FIFO "+scheme, func(t *testing.T) {
			checkLeaks(t)
			out, err := newFIFO(t, "out"), newFIFO(t, "err")
			clients := []*client{attach(t, out), attach(t, err)}
			s := open(t, Config{Stdout: scheme + out, Stderr: scheme + err})
			p := run(t, s, "noise", "1048576")
			var group errgroup
			got := make([][]byte, 2)
			for i, c := range clients {
				group.Go(func() error { got[i] = c.all(); return nil })
			}
			p.ended(t)
			drain(t, s)
			require.NoError(t, group.Wait())
			for i := range got {
				assert.Equal(t, sum(noise(i, size)), sum(got[i]))
			}
		})
	}
	t.Run("files", func(t *testing.T) {
		checkLeaks(t)
		out, err := filepath.Join(t.TempDir(), "new", "dir", "out"), filepath.Join(t.TempDir(), "err")
		require.NoError(t, os.WriteFile(err, []byte("before"), 0o600))
		s := open(t, Config{Stdout: "file://" + out, Stderr: "file://" + err})
		run(t, s, "noise", "1048576").ended(t)
		drain(t, s)
		got, rerr := os.ReadFile(out)
		require.NoError(t, rerr)
		assert.Equal(t, sum(noise(0, size)), sum(got))
		got, rerr = os.ReadFile(err)
		require.NoError(t, rerr)
		assert.Equal(t, sum(append([]byte("before"), noise(1, size)...)), sum(got))
	})
}

func TestBothStreamsInOneFile(t *testing.T) {
	for name, stderr := range map[string]string{"same URI": "same", "no stderr": ""} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			path := filepath.Join(t.TempDir(), "log")
			if stderr != "" {
				stderr = "file://" + path
			}
			s := open(t, Config{Stdout: "file://" + path, Stderr: stderr})
			run(t, s, "noise", "1048576").ended(t)
			drain(t, s)
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.EqualValues(t, 2<<20, info.Size())
		})
	}
}

func TestSlowReaderLosesNothing(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	c := attach(t, path)
	s := open(t, Config{Stdout: path})
	const size = 3 << 20 // more than FIFO and pipe take
	p := run(t, s, "noise", "3145728")
	awaitFull(t, s.outputs[0])
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded, "nobody reads yet")
	got := []byte(c.some(size - 100000))
	p.ended(t)
	drain(t, s)
	got = append(got, c.all()...)
	assert.Equal(t, sum(noise(0, size)), sum(got))
}

func TestOutputOutlivesClose(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	c := attach(t, path)
	s := open(t, Config{Stdout: path})
	run(t, s, "noise", "40000").ended(t)
	drain(t, s)
	require.NoError(t, s.Close())
	assert.Equal(t, sum(noise(0, 40000)), sum(c.all()))
}

func TestReaderMayLeaveAndComeBack(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	first := attach(t, path)
	s := open(t, Config{Stdout: path})
	_, stdout, _ := s.Files()
	_, err := stdout.WriteString("one ")
	require.NoError(t, err)
	assert.Equal(t, "one ", first.some(4))
	first.detach()
	_, err = stdout.WriteString("two ")
	require.NoError(t, err, "no reader is no error")
	second := attach(t, path)
	_, err = stdout.WriteString("three")
	require.NoError(t, err)
	assert.Equal(t, "two three", second.some(9))
	second.detach()
}

func TestLastOutputWaitsForReader(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	first := attach(t, path)
	s := open(t, Config{Stdout: path})
	first.detach()
	run(t, s, "noise", "5000").ended(t)
	drain(t, s)
	second, err := os.Open(path) // blocks if there is no writer
	require.NoError(t, err)
	c := &client{t: t, file: second}
	assert.Equal(t, sum(noise(0, 5000)), sum(c.all()))
	c.detach()
}

func TestCloseEndsWaitingForReader(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	first := attach(t, path)
	s := open(t, Config{Stdout: path})
	first.detach()
	run(t, s, "noise", "5000").ended(t)
	drain(t, s)
	require.NoError(t, s.Close())
}

func TestOpenWaitsForReader(t *testing.T) {
	t.Run("who comes later", func(t *testing.T) {
		checkLeaks(t)
		path := newFIFO(t, "out")
		opened := make(chan *client)
		go func() {
			f, _ := os.Open(path) // waits for a writer
			opened <- &client{t: t, file: f}
		}()
		s := open(t, Config{Stdout: path})
		run(t, s, "noise", "10").ended(t)
		drain(t, s)
		c := <-opened
		assert.Equal(t, noise(0, 10), c.all())
		c.detach()
	})
	t.Run("until the context is done", func(t *testing.T) {
		checkLeaks(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := Open(ctx, Config{Stdout: newFIFO(t, "out")})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "stdout: nobody reads ")
	})
}

func TestDescendantHoldsStdout(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	c := attach(t, path)
	s := open(t, Config{Stdout: path})
	_, stdout, _ := s.Files()
	_, err := stdout.WriteString("process ")
	require.NoError(t, err)
	descendant, err := duplicateBlocking(stdout)
	require.NoError(t, err)
	defer descendant.Close()
	s.CloseProcessEnds()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err = s.Drain(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "stdout: output is still open")

	_, err = descendant.WriteString("late")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	assert.Equal(t, "process late", string(c.all()))
	_, err = descendant.WriteString("too late")
	assert.ErrorIs(t, err, unix.EPIPE)
}

func duplicateBlocking(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return os.NewFile(uintptr(fd), "duplicate"), err
}

// A descendant that never stops writing must not keep Close.
func TestCloseWhileOutputGoesOn(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	c := attach(t, path)
	s := open(t, Config{Stdout: path})
	p := run(t, s, "write", "1000000000000", "65536")
	var group errgroup
	group.Go(func() error { c.all(); return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded)
	began := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(began), 3*time.Second)
	require.NoError(t, group.Wait())
	exit, err := p.Wait(t.Context())
	require.NoError(t, err)
	assert.NotZero(t, exit.Status, "its stdout is closed")
}

func TestStuckReaderDoesNotKeepClose(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	attach(t, path) // never reads
	s := open(t, Config{Stdout: path})
	p := run(t, s, "noise", "4194304")
	awaitFull(t, s.outputs[0])
	require.NoError(t, p.cmd.Process.Kill())
	<-p.Done()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded)
	began := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(began), 3*time.Second)
	require.NoError(t, s.Close(), "again")
}

// A process must not stop, or end, because its log cannot be written.
func TestFullDiskLosesOutputButDoesNotStopTheProcess(t *testing.T) {
	checkLeaks(t)
	s := open(t, Config{Stdout: "/dev/full", Stderr: "/dev/null"})
	run(t, s, "noise", "1048576").ended(t)
	err := s.Drain(t.Context())
	require.ErrorIs(t, err, unix.ENOSPC)
	assert.ErrorContains(t, err, "copy stdout: 1048576 bytes could not be written")
}

func TestNothingAskedForIsDevNull(t *testing.T) {
	checkLeaks(t)
	out := newFIFO(t, "out")
	for _, tt := range []struct {
		name   string
		config Config
		null   [3]bool
	}{
		{"all", Config{}, [3]bool{true, true, true}},
		{"only stdout", Config{Stdout: out}, [3]bool{true, false, true}},
		{"only stderr", Config{Stderr: out}, [3]bool{true, true, false}},
		{"only stdin", Config{Stdin: out}, [3]bool{false, true, true}},
		{"terminal", Config{Terminal: true}, [3]bool{true, true, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := attach(t, out)
			defer c.detach()
			s := open(t, tt.config)
			stdin, stdout, stderr := s.Files()
			for i, f := range []*os.File{stdin, stdout, stderr} {
				assert.Equal(t, tt.null[i], isDevNull(t, f), "descriptor %d", i)
			}
			s.CloseProcessEnds()
			drain(t, s)
		})
	}
}

func isDevNull(t *testing.T, f *os.File) bool {
	var got, null unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &got))
	require.NoError(t, unix.Stat(os.DevNull, &null))
	return got.Rdev == null.Rdev && got.Mode&unix.S_IFMT == unix.S_IFCHR
}

func TestUserReopensItsStdio(t *testing.T) {
	checkLeaks(t)
	in, out, err := newFIFO(t, "in"), newFIFO(t, "out"), newFIFO(t, "err")
	readOut, readErr := attach(t, out), attach(t, err)
	s := open(t, Config{Stdin: in, Stdout: out, Stderr: err, UID: 1000, GID: 1000})
	require.NoError(t, os.WriteFile(in, []byte("input"), 0))
	require.NoError(t, s.CloseStdin())

	cmd := exec.Command("/proc/self/exe")
	cmd.Env = environment("reopen")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	stdin, stdout, stderr := s.Files()
	p := launch(t, cmd, []*os.File{stdin, stdout, stderr})
	s.CloseProcessEnds()
	exit, werr := p.Wait(t.Context())
	require.NoError(t, werr)
	drain(t, s)
	stderrText := string(readErr.all())
	require.Zero(t, exit.Status, stderrText)
	assert.Equal(t, "/dev/stdout 1000 input\n/proc/self/fd/1 1000 input\n", string(readOut.all()))
	assert.Equal(t, "/dev/stderr 1000 input\n/proc/self/fd/2 1000 input\n", stderrText)
}

func TestPipesAreLargeOnlyWhileMuchComes(t *testing.T) {
	checkLeaks(t)
	path := newFIFO(t, "out")
	c := attach(t, path)
	s := open(t, Config{Stdout: path})
	size := func() (n int) {
		require.NoError(t, control(c.file, func(fd int) (err error) {
			n, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
			return err
		}))
		return n
	}
	before := size()
	_, stdout, _ := s.Files()
	writer := play(t, []*os.File{nil, stdout}, "write", "4000000", "65536")
	c.some(4000000)
	writer.ended(t)
	assert.Equal(t, largePipe, size())
	require.Eventually(t, func() bool { return size() == before }, 10*idleTime, idleTime/10)
	s.CloseProcessEnds()
	drain(t, s)
}

func TestIdleStreamsHoldNoThreads(t *testing.T) {
	checkLeaks(t)
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		require.NoError(t, err)
		return len(entries)
	}
	before := threads()
	for range 40 {
		in, out, err := newFIFO(t, "in"), newFIFO(t, "out"), newFIFO(t, "err")
		attach(t, out)
		attach(t, err)
		open(t, Config{Stdin: in, Stdout: out, Stderr: err})
	}
	assert.Less(t, threads()-before, 10)
}
