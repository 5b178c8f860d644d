package stdio

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/fifo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkFIFO is the way of stdout: a process that writes like dd bs=64k,
// this package, and a client that reads the FIFO. It reports the throughput and
// the CPU time of this package alone. "runc shim" is its loop, to compare with.
func BenchmarkFIFO(b *testing.B) {
	for name, open := range map[string]func(*testing.B, string) stream{"nexcage": openBench, "runc shim": openRuncLike} {
		b.Run(name+"/dd", func(b *testing.B) { benchmarkFIFO(b, 1<<30, 64<<10, open) })
		b.Run(name+"/lines", func(b *testing.B) { benchmarkFIFO(b, 32<<20, 100, open) })
	}
}

// stream is what a benchmark measures.
type stream struct {
	write *os.File // of the process
	wait  func() error
}

func benchmarkFIFO(b *testing.B, total, block int, open func(*testing.B, string) stream) {
	var wall, cpu time.Duration
	for range b.N {
		path := filepath.Join(b.TempDir(), "stdout")
		require.NoError(b, unix.Mkfifo(path, 0o600))
		client, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		require.NoError(b, err)
		s := open(b, path)
		blocking(b, client)
		reader := play(b, []*os.File{client}, "read", "32768")
		client.Close()
		began := time.Now()
		writer := play(b, []*os.File{nil, s.write}, "write", strconv.Itoa(total), strconv.Itoa(block))
		before := cpuTime(b)
		s.write.Close()
		require.Equal(b, strconv.Itoa(total), reader.ended(b))
		wall += time.Since(began)
		require.NoError(b, s.wait())
		cpu += cpuTime(b) - before
		writer.ended(b)
	}
	report(b, total, wall, cpu)
}

func report(b *testing.B, total int, wall, cpu time.Duration) {
	bytes := float64(total) * float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(bytes/1e6/wall.Seconds(), "MB/s")
	b.ReportMetric(cpu.Seconds()/(bytes/(1<<30)), "cpu-s/GiB")
}

func openBench(b *testing.B, path string) stream {
	s, err := Open(b.Context(), Config{Stdout: path})
	require.NoError(b, err)
	_, stdout, _ := s.Files()
	return stream{write: stdout, wait: func() error {
		defer s.Close()
		return s.Drain(b.Context())
	}}
}

// openRuncLike is what copyPipes of the runc shim does.
func openRuncLike(b *testing.B, path string) stream {
	w, err := fifo.OpenFifo(context.Background(), path, unix.O_WRONLY, 0)
	require.NoError(b, err)
	r, err := fifo.OpenFifo(context.Background(), path, unix.O_RDONLY, 0)
	require.NoError(b, err)
	pr, pw, err := os.Pipe()
	require.NoError(b, err)
	blocking(b, pw)
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.CopyBuffer(w, pr, make([]byte, 4096))
		w.Close()
		r.Close()
	})
	return stream{write: pw, wait: func() error { done.Wait(); return pr.Close() }}
}

func blocking(t testing.TB, f *os.File) {
	require.NoError(t, control(f, func(fd int) error { return unix.SetNonblock(fd, false) }))
}

// cpuTime of this process.
func cpuTime(t testing.TB) time.Duration {
	var r unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkTerminal is the way of a terminal's output: a process that writes
// lines, this package, and a client that reads the FIFO.
func BenchmarkTerminal(b *testing.B) {
	b.Run("nexcage", func(b *testing.B) { benchmarkTerminal(b, openTerminalBench) })
	b.Run("runc shim", func(b *testing.B) { benchmarkTerminal(b, openTerminalRuncLike) })
}

func benchmarkTerminal(b *testing.B, open func(*testing.B, string, *os.File) func() error) {
	const total = 64 << 20
	var wall, cpu time.Duration
	for range b.N {
		path := filepath.Join(b.TempDir(), "stdout")
		require.NoError(b, unix.Mkfifo(path, 0o600))
		client, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		require.NoError(b, err)
		master, slave := newTerminal(b)
		wait := open(b, path, master)
		blocking(b, client)
		reader := play(b, []*os.File{client}, "read", "32768")
		client.Close()
		began := time.Now()
		writer := play(b, []*os.File{nil, slave}, "write", strconv.Itoa(total), "65536")
		slave.Close()
		before := cpuTime(b)
		writer.ended(b)
		require.NoError(b, wait())
		require.Equal(b, strconv.Itoa(total), reader.ended(b))
		wall += time.Since(began)
		cpu += cpuTime(b) - before
	}
	report(b, total, wall, cpu)
}

func openTerminalBench(b *testing.B, path string, master *os.File) func() error {
	s, err := Open(b.Context(), Config{Stdout: path, Terminal: true})
	require.NoError(b, err)
	require.NoError(b, s.SetConsole(master))
	return func() error {
		defer s.Close()
		return s.Drain(b.Context())
	}
}

// openTerminalRuncLike is what CopyConsole of the runc shim does.
func openTerminalRuncLike(b *testing.B, path string, master *os.File) func() error {
	w, err := fifo.OpenFifo(context.Background(), path, unix.O_WRONLY, 0)
	require.NoError(b, err)
	r, err := fifo.OpenFifo(context.Background(), path, unix.O_RDONLY, 0)
	require.NoError(b, err)
	epoller, err := console.NewEpoller()
	require.NoError(b, err)
	go epoller.Wait()
	cons, err := console.ConsoleFromFile(master)
	require.NoError(b, err)
	tty, err := epoller.Add(cons)
	require.NoError(b, err)
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.CopyBuffer(w, tty, make([]byte, 4096))
		w.Close()
		r.Close()
	})
	return func() error {
		err := tty.Shutdown(epoller.CloseConsole)
		done.Wait()
		return err
	}
}
