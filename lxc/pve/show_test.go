package pve

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shownCT is a CT, with lines that an operator has added to its configuration.
func shownCT(t *testing.T, n *Node, added string) (vmid int, include string) {
	t.Helper()
	c := newConfig(t, "c1")
	c.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))},
	}
	vmid = reserved(t, n, c)
	f, err := os.OpenFile(n.confPath(vmid), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(added)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return vmid, c.include(n.Name, vmid)
}

func TestUpdatedLimitsAreShown(t *testing.T) {
	memory := func(limit int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: &limit} }
	for name, tc := range map[string]struct {
		limits *specs.LinuxResources
		diff   []string // lines that go, and that come, in the order of the file
	}{
		"memory":           {&specs.LinuxResources{Memory: memory(96 << 20)}, []string{"-memory: 64", "+memory: 96"}},
		"the same":         {&specs.LinuxResources{Memory: memory(64 << 20)}, nil},
		"memory and swap":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(96 << 20)), Swap: ptr(int64(100 << 20))}}, []string{"-memory: 64", "+memory: 96", "-swap: 0", "+swap: 4"}},
		"swap alone":       {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(100 << 20))}}, nil},
		"time":             {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(200000))}}, []string{"-cpulimit: 0.5", "+cpulimit: 2"}},
		"no limit of time": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}, []string{"-cpulimit: 0.5"}},
		"units":            {&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2048))}}, []string{"+cpuunits: "}},
		"nothing shown":    {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}, CPU: &specs.LinuxCPU{Cpus: "0"}}, nil},
		"none":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			vmid, include := shownCT(t, n, "[pve:pending]\nmemory: 7\ncpulimit: 7\n\n[snap]\nswap: 7\n")
			before, err := os.ReadFile(n.confPath(vmid))
			require.NoError(t, err)
			require.NoError(t, n.Show(t.Context(), vmid, include, tc.limits))
			after, err := os.ReadFile(n.confPath(vmid))
			require.NoError(t, err)
			assertDiff(t, tc.diff, string(before), string(after))
			assert.NoFileExists(t, n.confPath(vmid)+temporarySuffix)
		})
	}
}

// assertDiff compares two texts of lines that are sorted alike.
func assertDiff(t *testing.T, want []string, before, after string) {
	t.Helper()
	var got []string
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(old) > 0 && len(now) > 0 && old[0] == now[0]:
			old, now = old[1:], now[1:]
		case len(old) > 0 && (len(now) == 0 || old[0] <= now[0] || key(old[0]) == key(now[0])):
			got, old = append(got, "-"+old[0]), old[1:]
		default:
			got, now = append(got, "+"+now[0]), now[1:]
		}
	}
	require.Len(t, got, len(want), "%q", got)
	for i := range want {
		assert.True(t, strings.HasPrefix(got[i], want[i]), "%q", got)
	}
}

func key(line string) string { k, _, _ := strings.Cut(line, ":"); return k }

// What an operator has set is his, where containerd does not set it again.
func TestShownLimitsLeaveAnOperatorsAlone(t *testing.T) {
	n := newNode(t)
	vmid, include := shownCT(t, n, "")
	text, err := os.ReadFile(n.confPath(vmid))
	require.NoError(t, err)
	his := strings.Replace(string(text), "memory: 64\n", "memory: 80\n", 1)
	require.NoError(t, os.WriteFile(n.confPath(vmid), []byte(his), 0o600))
	require.NoError(t, n.Show(t.Context(), vmid, include, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(100000))}}))
	text, err = os.ReadFile(n.confPath(vmid))
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(his, "cpulimit: 0.5\n", "cpulimit: 1\n", 1), string(text))
}

func TestLimitsThatCanNotBeShown(t *testing.T) {
	limits := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}}
	for name, tc := range map[string]struct {
		disturb func(t *testing.T, n *Node, vmid int)
		class   error
		want    string
	}{
		"locked": {func(t *testing.T, n *Node, vmid int) {
			text, err := os.ReadFile(n.confPath(vmid))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(n.confPath(vmid), append([]byte("lock: backup\n"), text...), 0o600))
		}, errdefs.ErrUnavailable, "CT is locked (backup)"},
		"busy": {func(t *testing.T, n *Node, vmid int) {
			l, err := n.tryLock(vmid)
			require.NoError(t, err)
			t.Cleanup(l.release)
		}, errdefs.ErrUnavailable, "locked by another process"},
		"a copy": {func(t *testing.T, n *Node, vmid int) {
			text, err := os.ReadFile(n.confPath(vmid))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(n.confPath(vmid), []byte(strings.Replace(string(text), "tags: nexcage", "tags: other", 1)), 0o600))
		}, errdefs.ErrFailedPrecondition, "not ours any more"},
		"gone": {func(t *testing.T, n *Node, vmid int) { require.NoError(t, os.Remove(n.confPath(vmid))) }, os.ErrNotExist, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			vmid, include := shownCT(t, n, "")
			tc.disturb(t, n, vmid)
			before, _ := os.ReadFile(n.confPath(vmid))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err := n.Show(ctx, vmid, include, limits)
			require.ErrorIs(t, err, tc.class)
			assert.ErrorContains(t, err, tc.want)
			after, _ := os.ReadFile(n.confPath(vmid))
			assert.Equal(t, string(before), string(after))
		})
	}
}

// Who edits the file itself, without the lock, is not overwritten.
func TestAChangeBesidesTheLockIsSeen(t *testing.T) {
	n := newNode(t)
	vmid, _ := shownCT(t, n, "")
	err := n.replace(vmid, []byte("what it was\n"), []byte("what it is to be\n"))
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	assert.NoFileExists(t, n.confPath(vmid)+temporarySuffix)
}

func FuzzEdit(f *testing.F) {
	f.Add("#x\narch: amd64\nswap: 0\nlxc.include: /x\n[s]\nmemory: 1\n", "memory", "5")
	f.Add("memory: 1", "memory", "")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		if !propKey.MatchString(name) {
			return
		}
		before := ParseConf([]byte(text))
		edited, err := edit([]byte(text), []Prop{{name, value}})
		if err != nil {
			return
		}
		after := ParseConf(edited)
		seen := 0
		for _, p := range before.Props {
			if p.Key == name {
				seen++
				continue
			}
			assert.Equal(t, before.Get(p.Key), after.Get(p.Key))
		}
		if seen < 2 {
			assert.Equal(t, value, after.Get(name))
		}
		assert.Equal(t, before.Raw, after.Raw)
		assert.Equal(t, before.Description, after.Description)
	})
}
