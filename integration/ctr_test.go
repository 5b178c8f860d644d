package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestCtr runs each version's own ctr, which also writes the spec as clients of
// that time do.
func TestCtr(t *testing.T) {
	for _, v := range harness.Versions {
		t.Run(v.Name, func(t *testing.T) {
			w := world(t, v.Name)
			config := filepath.Join(t.TempDir(), "crun.toml")
			require.NoError(t, os.WriteFile(config, []byte("[routing]\ndefault_backend = \"crun\"\n"), 0o644))
			for name, flags := range map[string][]string{"lxc": nil, "crun": {"--runtime-config-path", config}} {
				t.Run(name, func(t *testing.T) {
					logged(t, w)
					leaveNothing(t, w)
					run := func(args ...string) (string, int) {
						all := append([]string{"run", "--rm", "--runtime", harness.LXC().Type}, flags...)
						return output(t, w.Ctr(within(t, time.Minute), append(append(all, args...), "sh", "-c", "echo out; exit 7")...))
					}
					out, code := run(harness.Image, containerID("ctr"))
					assert.Equal(t, "out\n", out)
					assert.Equal(t, 7, code)
					out, code = run("--read-only", "--env", "A=b", "--memory-limit", "33554432", harness.Image, containerID("ctr-flags"))
					assert.Equal(t, "out\n", out)
					assert.Equal(t, 7, code)
				})
			}
		})
	}
}

func output(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Logf("%s", exit.Stderr)
	} else {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestConfigurationFile routes by /etc/nexcage/config.toml, and shows that a bad
// one fails the create.
func TestConfigurationFile(t *testing.T) {
	const path = "/etc/nexcage/config.toml"
	w := world(t, harness.Versions[0].Name)
	write := func(t *testing.T, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		t.Cleanup(func() { assert.NoError(t, os.Remove(path)) })
	}
	plain := harness.LXC()
	plain.Options = nil
	for _, tc := range []struct{ name, text, backend string }{
		{"default", "", "lxc"},
		{"crun", "[routing]\ndefault_backend = \"crun\"\n", "crun"},
		{"rule", "[[routing.rules]]\nid = '-by-rule'\nbackend = \"crun\"\n", "crun"},
		{"no-rule-matches", "[[routing.rules]]\nid = '^x$'\nbackend = \"crun\"\n", "lxc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			logged(t, w)
			leaveNothing(t, w)
			write(t, tc.text)
			s := newScript(t, w, plain, "by-"+tc.name, forever...)
			s.create()
			require.NoError(t, s.last)
			state := content(t, filepath.Join("/run/nexcage", w.Namespace, s.ID, "state.json"))
			assert.Contains(t, state, fmt.Sprintf("%q: %q", "backend", tc.backend))
		})
	}
	t.Run("bad", func(t *testing.T) {
		leaveNothing(t, w)
		write(t, "[routing]\ndefault = \"crun\"\n")
		s := newScript(t, w, plain, "bad-config", forever...)
		s.create()
		assert.ErrorContains(t, s.last, path)
		assert.ErrorContains(t, s.last, "routing.default")
	})
}
