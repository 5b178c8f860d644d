package stdio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// The test binary plays the other processes, too: a role is chosen by the
// environment.
const roleVariable = "STDIO_TEST_ROLE"

var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVariable)]; ok {
		exitWith(role(os.Args[1:]))
	}
	if _, ok := os.LookupEnv("CONTAINER_ID"); ok { // a logger has no other environment
		exitWith(playLogger(os.Args[1:]))
	}
	ctx, cancel := context.WithCancel(context.Background())
	child.Expect().Cancel() // starts what is there to stay, for the leak checks
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func init() {
	// write BYTES BLOCK: as dd does.
	roles["write"] = func(args []string) error {
		total, block := number(args[0]), make([]byte, number(args[1]))
		for total > 0 {
			n, err := os.Stdout.Write(block[:min(total, len(block))])
			if err != nil {
				return err
			}
			total -= n
		}
		return nil
	}
	// noise BYTES: that much on stdout and stderr, at the same time.
	roles["noise"] = func(args []string) error {
		var group errgroup
		for i, f := range []*os.File{os.Stdout, os.Stderr} {
			group.Go(func() error { _, err := f.Write(noise(i, number(args[0]))); return err })
		}
		return group.Wait()
	}
	// sum: prints the hash of stdin.
	roles["sum"] = func([]string) error {
		in, err := io.ReadAll(os.Stdin)
		if err == nil {
			fmt.Println(sum(in))
		}
		return err
	}
	// reopen: uses its stdio by opening it again.
	roles["reopen"] = func([]string) error {
		in, err := os.ReadFile("/dev/stdin")
		if err != nil {
			return err
		}
		for _, path := range []string{"/dev/stdout", "/proc/self/fd/1", "/dev/stderr", "/proc/self/fd/2"} {
			if err := os.WriteFile(path, fmt.Appendf(nil, "%s %d %s\n", path, os.Getuid(), in), 0); err != nil {
				return err
			}
		}
		return nil
	}
	// deaf: closes stdin, says so, and waits to be killed.
	roles["deaf"] = func([]string) error {
		os.Stdin.Close()
		fmt.Println("closed")
		return unix.Pause()
	}
	// read BLOCK: reads stdin to its end, and says how much it was.
	roles["read"] = func(args []string) error {
		block, total := make([]byte, number(args[0])), 0
		for {
			n, err := os.Stdin.Read(block)
			total += n
			if err == io.EOF {
				fmt.Println(total)
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// noise is a reproducible sequence of bytes.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// errgroup runs functions at the same time and joins their errors.
type errgroup struct {
	sync.WaitGroup
	mu  sync.Mutex
	err error
}

func (g *errgroup) Go(f func() error) {
	g.WaitGroup.Go(func() {
		err := f()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.err = errors.Join(g.err, err)
	})
}

func (g *errgroup) Wait() error {
	g.WaitGroup.Wait()
	return g.err
}

// process is a child in one of the roles.
type process struct {
	*child.Child
	cmd    *exec.Cmd
	output string // file with its stdout, where that was not given
	errors string
}

// play starts the role; files are its descriptors 0, 1, 2 and so on, with nil for none.
func play(t testing.TB, files []*os.File, role string, args ...string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = environment(role)
	return launch(t, cmd, files)
}

func environment(role string) []string {
	return []string{roleVariable + "=" + role, "GORACE=atexit_sleep_ms=0"}
}

// run starts the role with the stdio, as the shim does.
func run(t testing.TB, s *IO, role string, args ...string) *process {
	t.Helper()
	stdin, stdout, stderr := s.Files()
	p := play(t, []*os.File{stdin, stdout, stderr}, role, args...)
	s.CloseProcessEnds()
	return p
}

func launch(t testing.TB, cmd *exec.Cmd, files []*os.File) *process {
	t.Helper()
	for len(files) < 3 {
		files = append(files, nil)
	}
	p := &process{cmd: cmd}
	for i, name := range map[int]*string{1: &p.output, 2: &p.errors} {
		if files[i] == nil {
			f, err := os.CreateTemp(t.TempDir(), "out")
			require.NoError(t, err)
			defer f.Close()
			files[i], *name = f, f.Name()
		}
	}
	if files[0] != nil {
		cmd.Stdin = files[0]
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = files[1], files[2], files[3:]
	var err error
	p.Child, err = child.Start(cmd)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.Done()
		_ = cmd.Process.Release()
	})
	return p
}

// ended waits for the end of the process, which must be a success, and returns
// its stdout.
func (p *process) ended(t testing.TB) string {
	t.Helper()
	exit, err := p.Wait(t.Context())
	require.NoError(t, err)
	errors, _ := os.ReadFile(p.errors)
	require.Zero(t, exit.Status, "%s", errors)
	out, _ := os.ReadFile(p.output)
	return string(bytes.TrimSpace(out))
}

// checkLeaks fails the test if goroutines or descriptors are left at its end.
func checkLeaks(t *testing.T) {
	t.Helper()
	goroutines, files := goleak.IgnoreCurrent(), descriptors(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goroutines)
		assert.Equal(t, files, descriptors(t), "open files")
	})
}

func descriptors(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var files []string
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files = append(files, e.Name()+" "+name)
		}
	}
	return files
}

// open opens the stdio and closes it at the end of the test.
func open(t testing.TB, c Config) *IO {
	t.Helper()
	s, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()); <-s.Done() })
	return s
}

// newFIFO returns the path of a FIFO.
func newFIFO(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, unix.Mkfifo(path, 0o600))
	return path
}

// client reads a FIFO as containerd's clients do.
type client struct {
	t    testing.TB
	file *os.File
}

// attach opens the FIFO for reading. It does not wait for a writer.
func attach(t testing.TB, path string) *client {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return &client{t: t, file: f}
}

// all reads to the end, which comes when the writer has closed the FIFO; there
// must be, or have been, one.
func (c *client) all() []byte {
	c.t.Helper()
	require.NoError(c.t, c.file.SetReadDeadline(time.Now().Add(20*time.Second)))
	b, err := io.ReadAll(c.file)
	require.NoError(c.t, err)
	return b
}

// some reads n bytes.
func (c *client) some(n int) string {
	c.t.Helper()
	require.NoError(c.t, c.file.SetReadDeadline(time.Now().Add(20*time.Second)))
	b := make([]byte, n)
	_, err := io.ReadFull(c.file, b)
	require.NoError(c.t, err)
	return string(b)
}

func (c *client) detach() { c.file.Close() }

// awaitFull waits until the FIFO of the stream takes no more.
func awaitFull(t testing.TB, c *copier) {
	t.Helper()
	full := func() (yes bool) {
		require.NoError(t, control(c.dst, func(fd int) error {
			yes = ready(unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})[0].Revents == 0
			return nil
		}))
		return yes
	}
	require.Eventually(t, full, 10*time.Second, time.Millisecond)
}

// drain must succeed.
func drain(t testing.TB, s *IO) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Drain(ctx))
}
