package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// playLogger is a logger as containerd's documentation describes them. Its
// arguments are "dir", where it leaves what it gets, and "mode".
func playLogger(args []string) error {
	dir, mode := args[1], args[3]
	note := func(name, text string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	if err := note("call", strings.Join(append(args, os.Environ()...), "\n")); err != nil {
		return err
	}
	if err := note("pid", fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	ready := os.NewFile(5, "ready")
	switch mode {
	case "dies":
		return nil
	case "never":
		return unix.Pause()
	case "byte":
		_, _ = ready.WriteString("x")
	}
	ready.Close()
	var group errgroup
	for fd, name := range map[uintptr]string{3: "stdout", 4: "stderr"} {
		group.Go(func() error {
			f, err := os.Create(filepath.Join(dir, name))
			if err == nil {
				_, err = io.Copy(f, os.NewFile(fd, name))
			}
			return err
		})
	}
	err := group.Wait()
	switch mode {
	case "until SIGTERM":
		<-term
		return errors.Join(err, note("terminated", ""))
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		return unix.Pause()
	}
	return err
}

func loggerURI(t testing.TB, scheme, mode string) (uri, dir string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir = t.TempDir()
	return fmt.Sprintf("%s://%s?dir=%s&mode=%s", scheme, self, url.QueryEscape(dir), url.QueryEscape(mode)), dir
}

func content(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return string(b)
}

func TestLoggerGetsBothStreams(t *testing.T) {
	for _, tt := range []struct {
		name, scheme, mode string
		stderr             bool
	}{
		{"binary", "binary", "", true},
		{"binary, ready by a byte", "binary", "byte", true},
		{"binary-v2", "binary-v2", "byte", true},
		{"no stderr", "binary", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			uri, dir := loggerURI(t, tt.scheme, tt.mode)
			c := Config{ID: "c1", Namespace: "n1", Stdout: uri}
			if tt.stderr {
				c.Stderr = uri
			}
			s := open(t, c)
			assert.Equal(t, strings.Join([]string{"dir", dir, "mode", tt.mode, "CONTAINER_ID=c1", "CONTAINER_NAMESPACE=n1"}, "\n"), content(t, dir, "call"))
			run(t, s, "noise", "1048576").ended(t)
			drain(t, s)
			require.NoError(t, s.Close())
			<-s.Done()
			assert.Equal(t, sum(noise(0, 1<<20)), sum([]byte(content(t, dir, "stdout"))))
			assert.Equal(t, sum(noise(1, 1<<20)), sum([]byte(content(t, dir, "stderr"))))
		})
	}
}

func TestLoggerBesideAFIFO(t *testing.T) {
	checkLeaks(t)
	uri, dir := loggerURI(t, "binary", "")
	path := newFIFO(t, "err")
	c := attach(t, path)
	s := open(t, Config{Stdout: uri, Stderr: path})
	run(t, s, "noise", "5000").ended(t)
	assert.Equal(t, noise(1, 5000), c.all())
	drain(t, s)
	require.NoError(t, s.Close())
	<-s.Done()
	assert.Equal(t, sum(noise(0, 5000)), sum([]byte(content(t, dir, "stdout"))))
}

func TestLoggerThatIsNotReadyFailsOpen(t *testing.T) {
	for _, tt := range []struct {
		name, scheme, mode, want string
		timeout                  time.Duration
	}{
		{"never ready", "binary", "never", "wait until it is ready: context deadline exceeded", 300 * time.Millisecond},
		{"dies", "binary-v2", "dies", "it did not say that it is ready", 20 * time.Second},
		{"says nothing", "binary-v2", "", "it did not say that it is ready", 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			uri, _ := loggerURI(t, tt.scheme, tt.mode)
			ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
			defer cancel()
			var open sync.WaitGroup
			_, err := Open(ctx, Config{Stdout: uri, Stderr: uri, Open: &open})
			open.Wait()
			require.ErrorContains(t, err, "stdout: logger /")
			assert.ErrorContains(t, err, tt.want)
		})
	}
	t.Run("does not exist", func(t *testing.T) {
		checkLeaks(t)
		_, err := Open(t.Context(), Config{Stdout: "binary:///nonexistent"})
		require.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestLoggerEndsInTheEnd(t *testing.T) {
	for _, tt := range []struct {
		mode       string
		terminated bool
		status     int
	}{
		{"", false, 0},
		{"until SIGTERM", true, 0},
		{"stubborn", false, 137},
	} {
		t.Run("mode "+tt.mode, func(t *testing.T) {
			checkLeaks(t)
			uri, dir := loggerURI(t, "binary", tt.mode)
			var open sync.WaitGroup
			s, err := Open(t.Context(), Config{Stdout: uri, Stderr: uri, Open: &open})
			require.NoError(t, err)
			l := s.loggers[uri]
			l.grace, l.timeout = 200*time.Millisecond, 2*time.Second
			run(t, s, "noise", "10").ended(t)
			drain(t, s)
			began := time.Now()
			require.NoError(t, s.Close())
			assert.Less(t, time.Since(began), time.Second, "Close does not wait for the kill")
			open.Wait()
			<-s.Done()
			assert.Equal(t, tt.status, l.child.Exit().Status)
			_, err = os.Stat(filepath.Join(dir, "terminated"))
			assert.Equal(t, tt.terminated, err == nil)
			assert.Equal(t, string(noise(0, 10)), content(t, dir, "stdout"))
		})
	}
}

func TestLoggerSeesTheEndOfTheProcess(t *testing.T) {
	checkLeaks(t)
	uri, _ := loggerURI(t, "binary", "")
	s := open(t, Config{Stdout: uri, Stderr: uri})
	run(t, s, "noise", "10").ended(t)
	<-s.loggers[uri].child.Done() // before Drain and Close
}

func TestLoggerOfATerminal(t *testing.T) {
	checkLeaks(t)
	uri, dir := loggerURI(t, "binary", "")
	s := open(t, Config{Stdout: uri, Terminal: true})
	master, slave := newRawTerminal(t)
	require.NoError(t, s.SetConsole(master))
	play(t, []*os.File{nil, slave}, "write", "100000", "1000").ended(t)
	slave.Close()
	drain(t, s)
	require.NoError(t, s.Close())
	<-s.Done()
	assert.Len(t, content(t, dir, "stdout"), 100000)
	assert.Empty(t, content(t, dir, "stderr"))
}

// A logger that has gone must not stop what writes to the terminal.
func TestLoggerThatDiesLosesTheTerminalOnly(t *testing.T) {
	checkLeaks(t)
	uri, dir := loggerURI(t, "binary-v2", "byte")
	s := open(t, Config{Stdout: uri, Terminal: true})
	l := s.loggers[uri]
	assert.Equal(t, fmt.Sprint(l.child.Pid()), content(t, dir, "pid"))
	require.NoError(t, l.cmd.Process.Kill())
	<-l.child.Done()
	master, slave := newRawTerminal(t)
	require.NoError(t, s.SetConsole(master))
	play(t, []*os.File{nil, slave}, "write", "100000", "1000").ended(t)
	slave.Close()
	assert.ErrorIs(t, s.Drain(t.Context()), unix.EPIPE)
}
