package crun

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorder is a Publisher that keeps what it gets, as "topic id".
type recorder struct {
	mu   sync.Mutex
	got  []string
	err  error
	more chan struct{} // gets a value for each event, if there is room
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1000)} }

func (r *recorder) Publish(_ context.Context, topic string, e events.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := topic
	if x, ok := e.(*eventtypes.TaskExit); ok && x.ID != x.ContainerID {
		name += " " + x.ID + " of"
	}
	r.got = append(r.got, name+" "+e.(interface{ GetContainerID() string }).GetContainerID())
	select {
	case r.more <- struct{}{}:
	default:
	}
	return r.err
}

func (r *recorder) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// wait waits until n events have come.
func (r *recorder) wait(t testing.TB, n int) []string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for len(r.events()) < n {
		select {
		case <-r.more:
		case <-deadline:
			require.FailNow(t, "events missing", "%v", r.events())
		}
	}
	return r.events()
}

// testOrder makes an order that finds no cgroups.
func testOrder(t testing.TB, next Publisher, wait time.Duration) *order {
	o := newOrder(next, wait)
	o.cgroupRoot = t.TempDir()
	return o
}

// send publishes events that are written like "create a 1", "exit a 1",
// "exec-exit a 2", "start a 1", "delete a", "oom a".
func send(t testing.TB, o *order, list ...string) {
	t.Helper()
	for _, s := range list {
		var kind, id string
		var pid uint32
		if n, _ := fmt.Sscanf(s, "%s %s %d", &kind, &id, &pid); n < 2 {
			require.FailNow(t, "bad event", s)
		}
		var e events.Event
		switch kind {
		case "create":
			e = &eventtypes.TaskCreate{ContainerID: id, Pid: pid}
		case "start":
			e = &eventtypes.TaskStart{ContainerID: id, Pid: pid}
		case "exit":
			e = &eventtypes.TaskExit{ContainerID: id, ID: id, Pid: pid}
		case "exec-exit":
			e = &eventtypes.TaskExit{ContainerID: id, ID: "x", Pid: pid}
		case "delete":
			e = &eventtypes.TaskDelete{ContainerID: id}
		case "oom":
			e = &eventtypes.TaskOOM{ContainerID: id}
		}
		require.NoError(t, o.Publish(t.Context(), kind, e))
	}
}

func TestADeleteWaitsForTheExit(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"in order":                   {"create a 1,start a 1,exit a 1,delete a", "create a,start a,exit a,delete a"},
		"delete first":               {"create a 1,start a 1,delete a,exit a 1", "create a,start a,exit a,delete a"},
		"never started":              {"create a 1,delete a,exit a 1", "create a,exit a,delete a"},
		"others pass":                {"create a 1,create b 2,delete a,exit b 2,delete b,exit a 1", "create a,create b,exit b,delete b,exit a,delete a"},
		"the exit of an exec":        {"create a 1,delete a,exec-exit a 2,exit a 1", "create a,exec-exit x of a,exit a,delete a"},
		"what else happens":          {"create a 1,delete a,oom a,exit a 1", "create a,oom a,exit a,delete a"},
		"OOM before the start":       {"create a 1,oom a,start a 1,exit a 1,delete a", "create a,start a,oom a,exit a,delete a"},
		"two OOMs before the start":  {"create a 1,oom a,oom a,start a 1,exit a 1,delete a", "create a,start a,oom a,exit a,delete a"},
		"OOM and no start":           {"create a 1,oom a,exit a 1,delete a", "create a,oom a,exit a,delete a"},
		"checkpoint, never restored": {"create a 0,delete a", "create a,delete a"},
		"checkpoint, restored":       {"create a 0,start a 7,delete a,exit a 7", "create a,start a,exit a,delete a"},
		"not created here":           {"delete a,exit a 1", "delete a,exit a"},
		"the next task of the container": {
			"create a 1,delete a,create a 2,start a 2,exit a 2,exit a 1,delete a",
			"create a,exit a,delete a,create a,start a,exit a,delete a",
		},
		"the next task, out of order too": {
			"create a 1,delete a,create a 2,start a 2,delete a,exit a 1,exit a 2",
			"create a,exit a,delete a,create a,start a,exit a,delete a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder()
			o := testOrder(t, r, time.Hour)
			send(t, o, strings.Split(tc.in, ",")...)
			assert.Equal(t, tc.want, strings.Join(r.events(), ","))
			assert.Empty(t, o.deleting)
			for _, task := range o.tasks {
				assert.Empty(t, task.held)
			}
		})
	}
}

func TestADeleteDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder()
		o := testOrder(t, r, exitWait)
		send(t, o, "create a 1", "delete a", "create a 2")
		time.Sleep(exitWait - time.Millisecond)
		assert.Equal(t, []string{"create a"}, r.events())
		time.Sleep(2 * time.Millisecond)
		assert.Equal(t, []string{"create a", "delete a", "create a"}, r.events())
		send(t, o, "exit a 2", "delete a")
		assert.Len(t, r.events(), 5)
	})
}

func TestCloseLetsGoOfHeldEvents(t *testing.T) {
	r := newRecorder()
	o := testOrder(t, r, time.Hour)
	send(t, o, "create a 1", "delete a", "create b 2")
	require.NoError(t, o.Close())
	require.NoError(t, o.Close())
	assert.Equal(t, []string{"create a", "create b", "delete a"}, r.events())
	<-o.drained
	send(t, o, "delete b")
	assert.Contains(t, r.events(), "delete b")
}

func TestSettledWhenEveryDeleteIsPublished(t *testing.T) {
	isSettled := func(o *order) bool {
		select {
		case <-o.settled():
			return true
		default:
			return false
		}
	}
	o := testOrder(t, newRecorder(), time.Hour)
	assert.True(t, isSettled(o))
	send(t, o, "create a 1", "create b 2")
	assert.True(t, isSettled(o), "tasks that run are not waited for")

	o.expectDelete("a")
	o.expectDelete("a") // a second call at the same time, that will fail
	o.expectDelete("b")
	first := o.settled()
	send(t, o, "delete a")
	o.deleteFailed("a")
	assert.False(t, isSettled(o), "held")
	send(t, o, "exit a 1")
	assert.False(t, isSettled(o), "b is missing")
	send(t, o, "exit b 2", "delete b")
	assert.True(t, isSettled(o))
	<-first
}

// oomControl makes a memory cgroup of this process below o's root, and
// returns a function that writes what the kernel counts in a cgroup below it.
func oomControl(t *testing.T, o *order) (set func(underOOM, kills int), remove func()) {
	own := memoryCgroup(hostCgroups, uint32(os.Getpid()))
	if own == "" {
		t.Skip("this host has no memory controller of cgroup v1")
	}
	dir := filepath.Join(o.cgroupRoot, strings.TrimPrefix(own, hostCgroups))
	below := filepath.Join(dir, "a", "b")
	require.NoError(t, os.MkdirAll(below, 0o755))
	write := func(dir string, underOOM, kills int) {
		content := fmt.Sprintf("oom_kill_disable 0\nunder_oom %d\noom_kill %d\n", underOOM, kills)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "memory.oom_control"), []byte(content), 0o644))
	}
	write(dir, 0, 0)
	write(below, 0, 0)
	return func(underOOM, kills int) { write(below, underOOM, kills) }, func() { require.NoError(t, os.RemoveAll(dir)) }
}

func TestAnOOMIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder()
		o := testOrder(t, r, time.Hour)
		set, remove := oomControl(t, o)
		pid := os.Getpid()
		create, exit := fmt.Sprintf("create a %d", pid), fmt.Sprintf("exit a %d", pid)
		expect := func(why string, want ...string) {
			t.Helper()
			assert.Equal(t, want, r.events(), why)
			r.got = nil
		}
		send(t, o, "oom a", create, fmt.Sprintf("start a %d", pid), "oom a", "oom a")
		time.Sleep(2 * oomWait)
		expect("without a task, and without a kill", "create a", "start a")
		set(0, 1)
		send(t, o, "oom a")
		expect("a kill", "oom a")
		set(1, 0)
		send(t, o, "oom a")
		expect("oom_kill_disable", "oom a")
		set(0, 0)
		send(t, o, "oom a")
		set(0, 1)
		time.Sleep(2 * oomWait)
		expect("a kill after the notification", "oom a")
		set(0, 0)
		send(t, o, "oom a")
		set(0, 1)
		send(t, o, exit)
		expect("the kill of the init after the notification", "oom a", "exit a")
		remove()
		send(t, o, "oom a", "delete a", "oom a")
		time.Sleep(2 * oomWait)
		expect("the cgroup has gone", "delete a")
	})
}

func TestPublishErrorsReachTheService(t *testing.T) {
	r := newRecorder()
	r.err = errors.New("full")
	o := testOrder(t, r, time.Hour)
	for _, e := range []events.Event{
		&eventtypes.TaskCreate{ContainerID: "a", Pid: 1}, &eventtypes.TaskExit{ContainerID: "a", ID: "a", Pid: 1},
		&eventtypes.TaskDelete{ContainerID: "a"},
	} {
		assert.ErrorIs(t, o.Publish(t.Context(), "topic", e), r.err)
	}
}

// TestAnyOrderOfManyContainers delivers exits and deletes of many lives of
// many containers in random order, from several goroutines.
func TestAnyOrderOfManyContainers(t *testing.T) {
	r := newRecorder()
	o := testOrder(t, r, time.Hour)
	var wg sync.WaitGroup
	const containers, lives = 20, 30
	for c := range containers {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(c)))
			id := fmt.Sprintf("c%d", c)
			for life := range lives {
				pid := 1 + c*lives + life
				end := []string{fmt.Sprintf("exit %s %d", id, pid), "delete " + id}
				rnd.Shuffle(2, func(i, j int) { end[i], end[j] = end[j], end[i] })
				send(t, o, append([]string{fmt.Sprintf("create %s %d", id, pid), fmt.Sprintf("start %s %d", id, pid)}, end...)...)
			}
		})
	}
	wg.Wait()
	got := r.events()
	require.Len(t, got, containers*lives*4)
	for c := range containers {
		id := fmt.Sprintf(" c%d", c)
		own := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.HasSuffix(s, id) })
		for i, s := range own {
			assert.Equal(t, []string{"create", "start", "exit", "delete"}[i%4]+id, s)
		}
	}
}
