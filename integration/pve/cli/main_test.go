package cli_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/cli"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// TestMain makes the test program the stand-in's programs too.
func TestMain(m *testing.M) {
	if code, ok := cli.Run(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(harness.Enter(m.Run))
}

// theNode is the session's node, as the recorded one: named vm, with an empty
// archive and a root file system in /srv/lab.
var theNode = sync.OnceValues(func() (*node.Node, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", "/srv", "tmpfs", 0, ""); err != nil {
		return nil, err
	}
	n, err := node.Start(context.Background(), filepath.Join(harness.Dir(), "node"), self, host.Settings{Version: ctconf.PVE91})
	if err != nil {
		return nil, err
	}
	return n, errors.Join(makeLab("/srv/lab"), n.Bridge("vmbr0", "10.9.0.1/24"))
})

func makeLab(dir string) error {
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755), os.WriteFile(filepath.Join(dir, "empty.tar"), make([]byte, 10240), 0o644)}
	for _, name := range []string{"sh", "sleep", "true", "ls", "cat", "ip", "id", "reboot"} {
		errs = append(errs, os.Symlink("busybox", filepath.Join(bin, name)))
	}
	return errors.Join(errs...)
}

func lab(t *testing.T) *node.Node {
	t.Helper()
	n, err := theNode()
	require.NoError(t, err)
	return n
}

// result is what a command gave.
type result struct {
	rc       int
	out, err string
}

// run runs one of the stand-in's commands.
func run(t *testing.T, argv ...string) result {
	t.Helper()
	return feed(t, nil, argv...)
}

func feed(t *testing.T, stdin []byte, argv ...string) result {
	t.Helper()
	n := lab(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also in clean-ups
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(n.Sbin, argv[0]), argv[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// must runs a command that succeeds, and returns its standard output.
func must(t *testing.T, argv ...string) string {
	t.Helper()
	r := run(t, argv...)
	require.Zero(t, r.rc, "%q: %s%s", argv, r.out, r.err)
	return r.out
}

// start starts a command and does not wait for it.
func start(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(lab(t).Sbin, argv[0]), argv[1:]...)
	require.NoError(t, cmd.Start())
	return cmd
}
