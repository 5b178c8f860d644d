package helper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

const (
	sourceDir = "../../cmd/nexcage-init"
	busybox   = "/bin/busybox"
)

// built is a directory with the helper, as the Makefile builds it, and with
// the programs of testdata.
var built string

// TestMain also is the programs that tests need in the helper's place or
// before it; the first argument says which.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "be-") {
		be(os.Args[1], os.Args[2:])
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nexcage-helper")
	if err == nil {
		defer os.RemoveAll(dir)
		built = dir
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build compiles before the reaper runs, which would take gcc's exit status.
func build(dir string) error {
	cflags, ldflags, err := flags()
	if err != nil {
		return err
	}
	sources, err := filepath.Glob(sourceDir + "/*.c")
	if err != nil {
		return err
	}
	helper := append(append(cflags, ldflags...), "-o", dir+"/nexcage-init")
	return errors.Join(
		compile(append(helper, sources...)...),
		compile("-static", "-o", dir+"/marker", "testdata/marker.c"),
		compile("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror",
			"-fsanitize=address,undefined", "-fno-sanitize-recover=all",
			"-o", dir+"/parser", "testdata/parser.c", sourceDir+"/message.c"),
	)
}

func compile(args ...string) error {
	if msg, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("gcc %q: %w: %s", args, err, msg)
	}
	return nil
}

// flags are the variables of flags.mk.
func flags() (c, ld []string, err error) {
	text, err := os.ReadFile(sourceDir + "/flags.mk")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "HELPER_CFLAGS ="); ok {
			c = strings.Fields(v)
		}
		if v, ok := strings.CutPrefix(line, "HELPER_LDFLAGS ="); ok {
			ld = strings.Fields(v)
		}
	}
	return c, ld, nil
}

// be is a program of the tests; it does not return.
func be(what string, args []string) {
	runtime.LockOSThread()
	var err error
	switch what {
	case "be-spoiled": // execute args with signals ignored and blocked
		signal.Ignore(unix.SIGHUP, unix.SIGPIPE, unix.SIGUSR1)
		all := &unix.Sigset_t{}
		for i := range all.Val {
			all.Val[i] = ^uint64(0)
		}
		err = unix.PthreadSigmask(unix.SIG_SETMASK, all, nil)
		if err == nil {
			err = unix.Exec(args[0], args[:1], nil)
		}
	case "be-without-stdio": // execute args with descriptors 0 to 2 closed
		err = unix.CloseRange(0, 2, 0)
		if err == nil {
			err = unix.Exec(args[0], args[:1], nil)
		}
	case "be-keyring":
		var id int
		id, err = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		fmt.Println(id)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, what, err)
		os.Exit(99)
	}
	os.Exit(0)
}

var reaping sync.Once

// reap starts the reaper: nobody may wait for a process by himself then, as
// the process does which starts the fuzzer's workers.
func reap(t *testing.T) {
	t.Helper()
	if flag.Lookup("test.fuzz").Value.String() != "" && flag.Lookup("test.fuzzworker").Value.String() != "true" {
		t.Skip("needs the reaper")
	}
	reaping.Do(func() { go child.Reap(context.Background()) })
}

// startChild starts a process that is killed with the test.
func startChild(t *testing.T, cmd *exec.Cmd) *child.Child {
	t.Helper()
	reap(t)
	c, err := child.Start(cmd)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-c.Done()
	})
	return c
}

// waiting returns the connection to a helper that waits, started through the
// program and arguments before, if any.
func waiting(t *testing.T, before ...string) (*Conn, *child.Child) {
	t.Helper()
	return connect(t, &exec.Cmd{Args: before})
}

func connect(t *testing.T, cmd *exec.Cmd) (*Conn, *child.Child) {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	copyFile(t, "nexcage-init", init)
	l, err := Listen(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	cmd.Args = append(cmd.Args, init)
	cmd.Path, cmd.Env = cmd.Args[0], []string{}
	c := startChild(t, cmd)
	conn, err := l.Accept(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(); conn.PIDFD().Close() })
	return conn, c
}

// copyFile copies a program that was built.
func copyFile(tb testing.TB, name, to string) {
	tb.Helper()
	bin, err := os.ReadFile(filepath.Join(built, name))
	require.NoError(tb, err)
	require.NoError(tb, os.WriteFile(to, bin, 0o755))
}

// pipe returns a pipe whose reading end is closed with the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// program are the operations that execute busybox with args.
func program(args ...string) []initop.Op {
	return []initop.Op{
		initop.Lookup(busybox, ""),
		initop.Exec(append([]string{"busybox"}, args...), nil),
	}
}

// output lets a waiting helper do ops and execute busybox with args, and
// returns its output. Standard output and error are descriptor 0.
func output(t *testing.T, conn *Conn, ops []initop.Op, files []*os.File, args ...string) string {
	t.Helper()
	r, w := pipe(t)
	prepare := []initop.Op{initop.Dup2(initop.FD(len(files)), 1), initop.Dup2(initop.FD(len(files)), 2)}
	err := conn.Run(t.Context(), append(prepare, ops...), append(files, w)...)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	start := append([]initop.Op{initop.CloseFrom(3)}, program(args...)...)
	require.NoError(t, conn.Exec(t.Context(), start))
	return readAll(t, r)
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(out)
}

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}
