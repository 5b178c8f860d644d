package stdio

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	// tty reopen: leaves the terminal, and opens it again.
	roles["tty reopen"] = func([]string) error {
		name, err := os.Readlink("/proc/self/fd/1")
		if err != nil {
			return err
		}
		fmt.Print("before ")
		for fd := range 3 {
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
		// The test answers when the terminal was left by everybody.
		if _, err := os.NewFile(3, "go on").Read(make([]byte, 1)); err != nil {
			return err
		}
		return os.WriteFile(name, []byte("after"), 0)
	}
	// tty lines: repeats what is typed.
	roles["tty lines"] = func([]string) error {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Printf("<%s>", lines.Text())
		}
		return nil
	}
	// tty hangup: waits for SIGHUP.
	roles["tty hangup"] = func([]string) error {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, unix.SIGHUP)
		fmt.Print("ready")
		<-hup
		return nil
	}
	// tty size: prints the size.
	roles["tty size"] = func([]string) error {
		size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
		if err == nil {
			fmt.Printf("%dx%d", size.Col, size.Row)
		}
		return err
	}
}

// newTerminal returns both ends of a terminal, the slave for a process.
func newTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { master.Close() })
	require.NoError(t, control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		slave = os.NewFile(n, "slave")
		return nil
	}))
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// newRawTerminal does not change what is written to it.
func newRawTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, slave = newTerminal(t)
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	mode.Oflag &^= unix.OPOST
	mode.Lflag &^= unix.ECHO
	require.NoError(t, unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode))
	return master, slave
}

// login starts a role as the leader of a session on the terminal.
func login(t testing.TB, slave *os.File, role string, more ...*os.File) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = environment(role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	p := launch(t, cmd, append([]*os.File{slave, slave, slave}, more...))
	slave.Close()
	return p
}

// openTerminal returns a stdio with its terminal, and who reads it.
func openTerminal(t testing.TB, c Config) (s *IO, slave *os.File, reader *client) {
	t.Helper()
	c.Terminal, c.Stdout = true, newFIFO(t, "out")
	reader = attach(t, c.Stdout)
	s = open(t, c)
	master, slave := newRawTerminal(t)
	require.NoError(t, s.SetConsole(master))
	s.CloseProcessEnds()
	return s, slave, reader
}

func TestTerminalOutputArrivesWhole(t *testing.T) {
	checkLeaks(t)
	s, slave, reader := openTerminal(t, Config{})
	p := play(t, []*os.File{nil, slave, nil}, "noise", "1048576")
	slave.Close()
	var got []byte
	var group errgroup
	group.Go(func() error { got = reader.all(); return nil })
	p.ended(t)
	drain(t, s)
	require.NoError(t, group.Wait())
	assert.Equal(t, sum(noise(0, 1<<20)), sum(got))
}

// The last output is in the terminal's buffers when the process is gone.
func TestTerminalLosesNothingAtTheEnd(t *testing.T) {
	checkLeaks(t)
	for i := range 40 {
		s, slave, reader := openTerminal(t, Config{})
		p := play(t, []*os.File{nil, slave}, "write", "9000", "9000")
		if i%2 == 0 {
			slave.Close() // else somebody else has the terminal, too
		}
		p.ended(t)
		drain(t, s)
		require.Len(t, reader.all(), 9000)
	}
}

func TestTerminalToAFile(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "log")
	s := open(t, Config{Stdout: "file://" + path, Terminal: true})
	master, slave := newRawTerminal(t)
	require.NoError(t, s.SetConsole(master))
	play(t, []*os.File{nil, slave, nil}, "noise", "100000").ended(t)
	slave.Close()
	drain(t, s)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, sum(noise(0, 100000)), sum(got))
}

func TestTerminalOfSlowReader(t *testing.T) {
	checkLeaks(t)
	s, slave, reader := openTerminal(t, Config{})
	p := play(t, []*os.File{nil, slave, nil}, "noise", "300000")
	slave.Close()
	awaitFull(t, s.outputs[0])
	got := []byte(reader.some(240000))
	p.ended(t)
	drain(t, s)
	got = append(got, reader.all()...)
	assert.Equal(t, sum(noise(0, 300000)), sum(got))
}

func TestTerminalMayBeLeftAndOpenedAgain(t *testing.T) {
	checkLeaks(t)
	s, slave, reader := openTerminal(t, Config{})
	goOn, answer, err := os.Pipe()
	require.NoError(t, err)
	defer answer.Close()
	p := login(t, slave, "tty reopen", goOn)
	goOn.Close()
	require.Equal(t, "before ", reader.some(7))
	s.mu.Lock()
	tty := s.tty
	s.mu.Unlock()
	require.Eventually(t, func() bool { return left(t, tty) }, 10*time.Second, time.Millisecond)
	before := cpuTime(t)
	require.Never(t, func() bool { return cpuTime(t)-before > 50*time.Millisecond }, 100*time.Millisecond, 10*time.Millisecond)
	_, err = answer.WriteString("x")
	require.NoError(t, err)
	p.ended(t)
	drain(t, s)
	assert.Equal(t, "after", string(reader.all()))
}

// left tells whether nobody has the terminal open.
func left(t testing.TB, master *os.File) (yes bool) {
	require.NoError(t, control(master, func(fd int) error {
		yes = ready(unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})[0].Revents&unix.POLLHUP != 0
		return nil
	}))
	return yes
}

func TestDescendantOnTheTerminalDoesNotKeepDrain(t *testing.T) {
	checkLeaks(t)
	s, slave, reader := openTerminal(t, Config{})
	_, err := slave.WriteString("output")
	require.NoError(t, err)
	drain(t, s) // the slave is open
	assert.Equal(t, "output", string(reader.all()))
}

func TestTerminalInput(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s, slave, reader := openTerminal(t, Config{Stdin: in})
	p := login(t, slave, "tty lines")
	require.NoError(t, write(t, in, []byte("first\nsec")))
	assert.Equal(t, "<first>", reader.some(7))
	require.NoError(t, write(t, in, []byte("ond\n\x04")), "another client")
	assert.Equal(t, "<second>", reader.some(8))
	p.ended(t)
	drain(t, s)
	assert.Empty(t, reader.all())
}

func TestLongTerminalInput(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s, slave, reader := openTerminal(t, Config{Stdin: in})
	p := login(t, slave, "tty lines")
	line := strings.Repeat("x", 99)
	var group errgroup
	group.Go(func() error { return write(t, in, []byte(strings.Repeat(line+"\n", 3000)+"\x04")) })
	assert.Equal(t, strings.Repeat("<"+line+">", 3000), reader.some(101*3000))
	require.NoError(t, group.Wait())
	p.ended(t)
	drain(t, s)
}

func TestEndOfTerminalInputHangsUp(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s, slave, reader := openTerminal(t, Config{Stdin: in})
	p := login(t, slave, "tty hangup")
	require.Equal(t, "ready", reader.some(5))
	require.NoError(t, s.CloseStdin())
	p.ended(t)
	drain(t, s)
	assert.Empty(t, reader.all())
	assert.ErrorIs(t, s.Resize(80, 25), errdefs.ErrFailedPrecondition)
}

func TestTerminalInputEndsWithTheProcess(t *testing.T) {
	checkLeaks(t)
	in := newFIFO(t, "in")
	s, slave, _ := openTerminal(t, Config{Stdin: in})
	c, err := os.OpenFile(in, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer c.Close()
	slave.Close()
	drain(t, s)
	<-s.input.done
	_, err = c.WriteString("x")
	assert.ErrorIs(t, err, unix.EPIPE)
}

func TestResize(t *testing.T) {
	checkLeaks(t)
	s, slave, reader := openTerminal(t, Config{})
	require.NoError(t, s.Resize(132, 43))
	login(t, slave, "tty size").ended(t)
	assert.Equal(t, "132x43", reader.some(6))
	drain(t, s)
	require.NoError(t, s.Close())
	assert.ErrorIs(t, s.Resize(80, 25), errdefs.ErrFailedPrecondition)
}

func TestWithoutTerminal(t *testing.T) {
	checkLeaks(t)
	s := open(t, Config{})
	require.NoError(t, s.Resize(80, 25), "as the runc shim")
	require.NoError(t, s.CloseStdin())
	master, slave := newTerminal(t)
	defer slave.Close()
	require.ErrorIs(t, s.SetConsole(master), errdefs.ErrFailedPrecondition)
	assert.ErrorIs(t, master.Close(), os.ErrClosed, "it was taken over")
}

func TestTerminalThatNeverCame(t *testing.T) {
	checkLeaks(t)
	out, in := newFIFO(t, "out"), newFIFO(t, "in")
	reader := attach(t, out)
	s := open(t, Config{Stdin: in, Stdout: out, Terminal: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NoError(t, s.Drain(ctx))
	require.NoError(t, s.Close())
	assert.Empty(t, reader.all())
}

func TestStuckTerminalReaderDoesNotKeepClose(t *testing.T) {
	checkLeaks(t)
	s, slave, _ := openTerminal(t, Config{})
	p := play(t, []*os.File{nil, slave, nil}, "noise", "3000000")
	slave.Close()
	awaitFull(t, s.outputs[0])
	require.Eventually(t, func() bool { n, _ := queued(s.tty); return n > 4000 }, 10*time.Second, time.Millisecond)
	require.NoError(t, p.cmd.Process.Kill())
	<-p.Done()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded)
	began := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(began), 3*time.Second)
}
