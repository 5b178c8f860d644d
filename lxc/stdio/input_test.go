package stdio

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// write opens the FIFO as a client does, writes and closes it.
func write(t testing.TB, path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(b)
	return err
}

func TestInputArrivesWholeBeforeItsEnd(t *testing.T) {
	for _, size := range []int{0, 1, 60 << 10, 1 << 20} {
		checkLeaks(t)
		in := newFIFO(t, "in")
		s := open(t, Config{Stdin: in})
		stdin, _, _ := s.Files()
		var group errgroup
		attached := make(chan struct{})
		group.Go(func() error {
			f, err := os.OpenFile(in, os.O_WRONLY, 0)
			close(attached)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write(noise(1, size))
			return err
		})
		<-attached
		require.NoError(t, s.CloseStdin(), "while the client writes")
		require.NoError(t, s.CloseStdin(), "again")
		p := play(t, []*os.File{stdin}, "sum")
		s.CloseProcessEnds()
		require.NoError(t, group.Wait())
		assert.Equal(t, sum(noise(1, size)), p.ended(t), "%d bytes", size)
		drain(t, s)
	}
}

func TestClientThatLeavesIsNotTheEnd(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s := open(t, Config{Stdin: in})
	stdin, _, _ := s.Files()
	p := play(t, []*os.File{stdin}, "sum")
	s.CloseProcessEnds()
	require.NoError(t, write(t, in, []byte("one ")))
	require.NoError(t, write(t, in, []byte("two")))
	select {
	case <-p.Done():
		t.Fatal("the process has seen the end of its input")
	default:
	}
	require.NoError(t, s.CloseStdin())
	assert.Equal(t, sum([]byte("one two")), p.ended(t))
	drain(t, s)
}

func TestCloseStdinIsNotTheEndWhileAClientIsThere(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s := open(t, Config{Stdin: in})
	stdin, _, _ := s.Files()
	c, err := os.OpenFile(in, os.O_WRONLY, 0)
	require.NoError(t, err)
	p := play(t, []*os.File{stdin}, "sum")
	s.CloseProcessEnds()
	require.NoError(t, s.CloseStdin())
	_, err = c.WriteString("later")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Equal(t, sum([]byte("later")), p.ended(t))
	drain(t, s)
}

func TestInputFromAFile(t *testing.T) {
	checkLeaks(t)
	path := t.TempDir() + "/in"
	require.NoError(t, os.WriteFile(path, noise(1, 300000), 0o600))
	s := open(t, Config{Stdin: path})
	stdin, _, _ := s.Files()
	p := play(t, []*os.File{stdin}, "sum")
	s.CloseProcessEnds()
	assert.Equal(t, sum(noise(1, 300000)), p.ended(t))
	drain(t, s)
}

func TestProcessThatClosesItsInput(t *testing.T) {
	checkLeaks(t)
	in, out := newFIFO(t, "in"), newFIFO(t, "out")
	reader := attach(t, out)
	s := open(t, Config{Stdin: in, Stdout: out})
	p := run(t, s, "deaf")
	require.Equal(t, "closed\n", reader.some(7))

	c, err := os.OpenFile(in, os.O_WRONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.WriteString("not read")
	require.NoError(t, err, "a client sees nothing of it")
	require.Eventually(t, func() bool { _, err := s.input.dst.Stat(); return err != nil }, 10*time.Second, time.Millisecond)
	before := cpuTime(t)
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	_, err = c.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "it waits")
	assert.Less(t, cpuTime(t)-before, 100*time.Millisecond, "and nothing turns")

	require.NoError(t, p.cmd.Process.Kill())
	<-p.Done()
	drain(t, s)
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
	require.Eventually(t, func() bool { _, err = c.Write([]byte{0}); return err != nil }, 10*time.Second, time.Millisecond)
	assert.ErrorIs(t, err, unix.EPIPE, "after the process")
}

func TestInputEndsWithTheProcess(t *testing.T) {
	for _, how := range []string{"Drain", "Close"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			in := newFIFO(t, "in")
			s := open(t, Config{Stdin: in})
			c, err := os.OpenFile(in, os.O_WRONLY, 0)
			require.NoError(t, err)
			defer c.Close()
			s.CloseProcessEnds()
			if how == "Drain" {
				drain(t, s)
				<-s.input.done
			} else {
				require.NoError(t, s.Close())
			}
			_, err = c.WriteString("x")
			assert.ErrorIs(t, err, unix.EPIPE)
		})
	}
}

// Nothing of a process that takes no input may wait for it.
func TestFullInputDoesNotKeepClose(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s := open(t, Config{Stdin: in})
	c, err := os.OpenFile(in, os.O_WRONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Write(make([]byte, 4<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NoError(t, s.Drain(ctx))
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(began), time.Second)
}
