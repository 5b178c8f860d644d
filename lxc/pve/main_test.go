package pve

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The test binary is also pct: it answers as the file FAKE_PCT says, and notes
// how it was called.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "pct" {
		os.Exit(fakePct())
	}
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	go child.Reap(ctx)
	code := m.Run()
	cancel()
	os.Exit(code)
}

// answer of the fake pct, in the file answer.json beside it.
type answer struct {
	Stdout, Stderr string
	Code           int
	Hang           bool
}

func fakePct() int {
	dir := filepath.Dir(os.Args[0])
	text, err := os.ReadFile(filepath.Join(dir, "answer.json"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	var all map[string]answer
	if err := json.Unmarshal(text, &all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 99
	}
	fmt.Fprintln(f, strings.Join(os.Args[1:], " "))
	a, ok := all[os.Args[1]]
	if !ok {
		return 98
	}
	if a.Hang {
		time.Sleep(time.Hour) // until it is killed; select would be a deadlock
	}
	fmt.Print(a.Stdout)
	fmt.Fprint(os.Stderr, a.Stderr)
	if in, err := io.ReadAll(os.Stdin); err == nil && len(in) > 0 {
		fmt.Fprintf(f, "stdin: %s\n", in)
	}
	return a.Code
}

// newClient returns a client of a pct that gives these answers, by verb.
func newClient(t *testing.T, answers map[string]answer) (*Client, func() string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "pct")))
	text, err := json.Marshal(answers)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "answer.json"), text, 0o600))
	return &Client{Pct: filepath.Join(dir, "pct")}, func() string {
		calls, err := os.ReadFile(filepath.Join(dir, "calls"))
		require.NoError(t, err)
		return string(calls)
	}
}

// newNode returns a node whose cluster file system is a plain directory: of
// what Proxmox's does, exclusive creation is the same.
func newNode(t *testing.T) *Node {
	t.Helper()
	dir := t.TempDir()
	n := &Node{
		Name: "vm", Etc: filepath.Join(dir, "etc"), Locks: filepath.Join(dir, "locks"),
		LXC: filepath.Join(dir, "lxc"), Run: filepath.Join(dir, "run"), Keep: filepath.Join(dir, "keep"),
	}
	for _, d := range []string{n.confDir(), n.LXC, n.Run, filepath.Join(n.Etc, "firewall")} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(n.Etc, ".vmlist"), []byte(`{"version": 1}`), 0o600))
	return n
}
