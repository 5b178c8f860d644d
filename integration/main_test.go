// Package integration tests the shim with real containerds, LXC and crun.
//
// It runs in a session of package harness, as root, and needs what `make
// build` and `make tools` put into bin/.
package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Enter(m.Run)) }

// worlds holds the containerd of each version, started when first needed. Tests
// with a world do not run in parallel: each looks for leaks.
var worlds = map[string]*place{}

// place is a world and its events.
type place struct {
	*harness.World
	events *harness.Events
	life   context.Context  // of the event subscription
	config string           // further tables of the shim's configuration, for comparisons
	settle func(*testing.T) // removes what is to be there after a container, nil for nothing
}

func world(t *testing.T, version string) *place {
	t.Helper()
	if harness.WholeGuest() {
		t.Skip("this guest is a node of Proxmox VE")
	}
	if p, ok := worlds[version]; ok {
		return p
	}
	v, err := harness.FindVersion(version)
	require.NoError(t, err)
	if why := v.Absent(); why != "" {
		t.Skip(why)
	}
	w, err := harness.NewWorld(t.Context(), v, harness.Dir())
	require.NoError(t, err)
	life := context.Background() // as long as the session's
	worlds[version] = &place{World: w, events: w.Watch(life), life: life}
	return worlds[version]
}

// logged prints what containerd and the shims logged during a test that failed.
func logged(t *testing.T, w *place) {
	t.Helper()
	since := logSince(t, w)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if log := since(); log != "" {
			t.Logf("containerd's log:\n%s", log)
		}
	})
}

// logSince returns what containerd and the shims log from now on.
func logSince(t *testing.T, w *place) func() string {
	t.Helper()
	before, err := os.Stat(w.LogFile())
	require.NoError(t, err)
	return func() string {
		log, err := os.ReadFile(w.LogFile())
		if !assert.NoError(t, err) || int64(len(log)) < before.Size() {
			return ""
		}
		return string(log[before.Size():])
	}
}

// leaveNothing fails the test when something is there after it that was not
// there before. Call it before what cleans up, as that goes in reverse order.
func leaveNothing(t *testing.T, w *place) {
	t.Helper()
	before, err := harness.Take(w.World)
	require.NoError(t, err)
	t.Cleanup(func() {
		if w.settle != nil {
			w.settle(t)
		}
		left, err := harness.Left(w.World, before)
		require.NoError(t, err)
		assert.Empty(t, strings.Join(left, "\n"), "left behind")
	})
}

// combinations calls f for every runtime under every containerd that it
// belongs to: ours everywhere, the reference under the newest only (or, with
// NEXCAGE_TEST_REFERENCE=all, each version's own shim under that version).
func combinations(t *testing.T, f func(t *testing.T, w *place, rt harness.Runtime)) {
	for _, rt := range []harness.Runtime{harness.Reference(), harness.LXC(), harness.Crun()} {
		t.Run(rt.Name, func(t *testing.T) {
			for _, v := range harness.Versions {
				if rt.Reference && os.Getenv("NEXCAGE_TEST_REFERENCE") == "" && v.Name != harness.Versions[0].Name {
					continue
				}
				t.Run(v.Name, func(t *testing.T) { f(t, world(t, v.Name), rt) })
			}
		})
	}
}

// newest calls f for both backends under the newest containerd.
func newest(t *testing.T, f func(t *testing.T, w *place, rt harness.Runtime)) {
	runtimes := []harness.Runtime{harness.LXC(), harness.Crun()}
	if os.Getenv("NEXCAGE_TEST_REFERENCE") != "" {
		runtimes = append(runtimes, harness.Reference()) // shows what of a failure is the test's
	}
	for _, rt := range runtimes {
		t.Run(rt.Name, func(t *testing.T) { f(t, world(t, harness.Versions[0].Name), rt) })
	}
}

var counter int

// containerID makes an id with the session's token in it, which says whose a
// cgroup is.
func containerID(name string) string {
	counter++
	name = strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", r) {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	id := fmt.Sprintf("%s-%d-%s", harness.Token(), counter, name)
	return strings.Trim(id[:min(len(id), 76)], "-") // containerd's limit
}

// destroyed removes the container at the end of the test, whatever its state.
func destroyed(t *testing.T, c *harness.Container) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slow(30*time.Second))
		defer cancel()
		assert.NoError(t, c.Destroy(ctx), "clean up")
	})
}

// slow is a time limit of a host as it is here.
func slow(d time.Duration) time.Duration { return d * time.Duration(harness.Slowness()) }

// fewer is a number of containers of a host as it is here, where it only costs
// time.
func fewer(n int) int { return (n + harness.Slowness() - 1) / harness.Slowness() }

// within bounds a test that waits for something.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), slow(d))
	t.Cleanup(cancel)
	return ctx
}
