package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// On a node whose systemd starts CTs, lxc-start is the unit's, under its own
// AppArmor profile; the container has that of the spec, and so have its execs.
func TestSystemdRunsTheCT(t *testing.T) {
	if !harness.WholeGuest() {
		t.Skip("a guest that is a node has systemd (make test-vm)")
	}
	w := proxmox(t)
	logged(t, w)
	leaveNothing(t, w)
	profile := loadProfile(t, t.TempDir())
	s := newScriptSpec(t, w, harness.LXC(), "unit", []oci.SpecOpts{oci.WithApparmorProfile(profile)}, forever...)
	s.create()
	s.start()
	require.NoError(t, s.last)
	unit := "pve-container@" + recordedVMID(t, s) + ".service"
	monitor := parentOf(t, int(s.Pid))
	assert.Equal(t, strconv.Itoa(monitor), unitProperty(t, unit, "MainPID"))
	assert.Contains(t, label(t, monitor), "lxc-start (enforce)")
	assert.Equal(t, profile+" (enforce)", label(t, int(s.Pid)))
	s.exec("e", &harness.Stdio{}, nil, "sleep", "1000")
	assert.Equal(t, profile+" (enforce)", label(t, int(s.startExec("e"))))
	s.kill(9)
	s.wait()
	s.delete()
	assert.Equal(t, []string{"delete: 137"}, s.log[len(s.log)-1:])
	_, err := systemctl(t, "stop", unit) // is on its way: this waits for it
	require.NoError(t, err)
	assert.Equal(t, "inactive", unitProperty(t, unit, "ActiveState"), "failed, if its command for the stop did")
}

func systemctl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemctl", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("systemctl %q: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func unitProperty(t *testing.T, unit, name string) string {
	t.Helper()
	value, err := systemctl(t, "show", "--value", "--property="+name, unit)
	require.NoError(t, err)
	return value
}

// label is what AppArmor calls a process.
func label(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	parent, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	return parent
}
