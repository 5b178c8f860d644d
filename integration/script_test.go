package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// script drives one container, and writes down what each step gave: that
// transcript is what the runtimes are compared by.
type script struct {
	*harness.Container
	t     *testing.T
	ctx   context.Context
	place *place
	stdio *harness.Stdio // of the task
	log   []string
	last  error // of the last step
}

// note records a step: "ok", or the class of its error.
func (s *script) note(step string, err error, result ...any) {
	s.t.Helper()
	s.last = err
	outcome := fmt.Sprint(result...)
	if err != nil {
		outcome = class(err)
		s.t.Logf("%s: %v", step, err)
	} else if outcome == "" {
		outcome = "ok"
	}
	s.log = append(s.log, step+": "+outcome)
}

// class is the errdefs class of an error.
func class(err error) string { return errdefs.Resolve(err).Error() }

func (s *script) create() {
	s.t.Helper()
	err := s.Create(s.ctx, s.stdio)
	s.note("create", err)
	if err == nil {
		assert.Positive(s.t, s.Pid, "pid of the created task")
	}
}

func (s *script) start() {
	s.t.Helper()
	pid, err := s.Start(s.ctx, "")
	s.note("start", err)
	if err == nil {
		assert.Equal(s.t, s.Pid, pid, "pid at create and at start")
	}
}

func (s *script) wait() {
	s.t.Helper()
	status, at, err := s.Wait(s.ctx, "")
	s.note("exit", err, status)
	if err == nil {
		assert.WithinDuration(s.t, time.Now(), at, time.Minute, "time of exit")
	}
}

func (s *script) delete() {
	s.t.Helper()
	status, err := s.Delete(s.ctx, "")
	s.note("delete", err, status)
}

func (s *script) kill(signal uint32) {
	s.t.Helper()
	s.note(fmt.Sprint("kill ", signal), s.Kill(s.ctx, "", signal, false))
}

func (s *script) killExec(execID string, signal uint32) {
	s.t.Helper()
	s.note(fmt.Sprintf("kill %s %d", execID, signal), s.Kill(s.ctx, execID, signal, false))
}

func (s *script) state() {
	s.t.Helper()
	r, err := s.State(s.ctx, "")
	if err != nil {
		s.note("state", err)
		return
	}
	p := r.Process
	s.note("state", nil, describe(p))
	assert.Equal(s.t, s.ID, p.ID)
	if p.Status != task.Status_STOPPED {
		assert.Equal(s.t, s.Pid, p.Pid, "pid in the state")
	}
}

func (s *script) execState(execID string) {
	s.t.Helper()
	r, err := s.State(s.ctx, execID)
	if err != nil {
		s.note("state "+execID, err)
		return
	}
	s.note("state "+execID, nil, describe(r.Process))
}

func describe(p *task.Process) string {
	text := strings.ToLower(p.Status.String())
	if p.Status == task.Status_STOPPED {
		text += fmt.Sprint(" ", p.ExitStatus)
	}
	if p.Terminal {
		text += " terminal"
	}
	return text
}

// out waits for the end of the output and records it.
func (s *script) out() {
	s.t.Helper()
	s.output("", s.stdio)
}

func (s *script) output(execID string, stdio *harness.Stdio) {
	s.t.Helper()
	if err := stdio.Wait(s.ctx); err != nil {
		s.note("output", err)
		return
	}
	name := strings.TrimSpace("stdout " + execID)
	s.note(name, nil, quote(stdio.Out()))
	if text := stdio.Err(); text != "" {
		s.note(strings.Replace(name, "stdout", "stderr", 1), nil, quote(text))
	}
}

// quote shows short text as it is and of long text the size and hash.
func quote(text string) string {
	if len(text) <= 200 {
		return fmt.Sprintf("%q", text)
	}
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%d bytes, sha256 %s", len(text), hex.EncodeToString(sum[:4]))
}

// exec registers a process; edit may change its specification.
func (s *script) exec(execID string, stdio *harness.Stdio, edit func(*specs.Process), args ...string) {
	s.t.Helper()
	p, err := s.Process(s.ctx, args...)
	require.NoError(s.t, err)
	p.Terminal = stdio.Terminal
	if edit != nil {
		edit(p)
	}
	s.note("exec "+execID, s.Exec(s.ctx, execID, p, stdio))
}

func (s *script) startExec(execID string) uint32 {
	s.t.Helper()
	pid, err := s.Start(s.ctx, execID)
	s.note("start "+execID, err)
	return pid
}

func (s *script) waitExec(execID string) {
	s.t.Helper()
	status, _, err := s.Wait(s.ctx, execID)
	s.note("exit "+execID, err, status)
}

func (s *script) deleteExec(execID string) {
	s.t.Helper()
	status, err := s.Delete(s.ctx, execID)
	s.note("delete "+execID, err, status)
}

// runExec is a whole exec, with its output.
func (s *script) runExec(execID string, edit func(*specs.Process), args ...string) {
	s.t.Helper()
	stdio := &harness.Stdio{}
	s.exec(execID, stdio, edit, args...)
	s.startExec(execID)
	if s.last == nil {
		s.waitExec(execID)
		s.output(execID, stdio)
	}
	s.deleteExec(execID)
}

// awaitOut waits until the output has text in it.
func (s *script) awaitOut(stdio *harness.Stdio, text string) {
	s.t.Helper()
	require.NoError(s.t, stdio.AwaitOut(s.ctx, text))
}

// simple is the whole life of a task that ends by itself.
func simple(s *script) {
	s.create()
	s.start()
	s.wait()
	s.out()
	s.delete()
}

// scenario is a life cycle and what it must give, whatever runs it.
type scenario struct {
	name     string
	image    string // harness.Image unless set
	only     string // the backend that it is about, if not all
	args     []string
	spec     []oci.SpecOpts
	null     bool // stdio is nowhere
	terminal bool
	stdin    func() io.Reader // none unless set
	run      func(s *script)  // simple unless set
	want     []string         // the transcript
	events   []string         // without exec deletions
	flaw     string           // what the reference does here instead; it is left out then
}

// text is a stdin that ends; gated is one that waits for gate.Open.
func text(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }

func gated() io.Reader { return newGate() }

func (sc *scenario) test(t *testing.T, w *place, rt harness.Runtime) {
	if rt.Reference && sc.flaw != "" {
		t.Skipf("the reference %s", sc.flaw)
	}
	if sc.only != "" && rt.Backend != sc.only {
		t.Skipf("a matter of %s", sc.only)
	}
	logged(t, w)
	leaveNothing(t, w)
	ctx := within(t, time.Minute)
	img := sc.image
	if img == "" {
		img = harness.Image
	}
	opts := append([]oci.SpecOpts{oci.WithProcessArgs(sc.args...)}, sc.spec...)
	stdio := &harness.Stdio{Null: sc.null, Terminal: sc.terminal}
	if sc.stdin != nil {
		stdio.Stdin = sc.stdin()
	}
	if stdio.Terminal {
		opts = append(opts, oci.WithTTY)
	}
	c, err := w.NewContainer(ctx, rt, containerID(sc.name), img, opts...)
	require.NoError(t, err)
	s := &script{Container: c, t: t, ctx: ctx, place: w, stdio: stdio}
	destroyed(t, c)
	run := sc.run
	if run == nil {
		run = simple
	}
	run(s)
	assert.Equal(t, sc.want, s.log, "transcript")
	if rt.Reference || sc.events == nil {
		return // containerd's own shim loses and reorders events
	}
	s.checkEvents(sc.events)
}

func (s *script) awaitEvent(event string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, slow(10*time.Second))
	defer cancel()
	_, err := s.place.events.Await(ctx, s.ID, event)
	assert.NoError(s.t, err)
}

func (s *script) checkEvents(want []string) {
	s.t.Helper()
	if len(want) > 0 {
		s.awaitEvent(want[len(want)-1])
	}
	got := harness.Strings(s.place.events.Of(s.ID))
	assert.Equal(s.t, want, got, "events")
	s.t.Cleanup(func() { // once the shim is gone there is no more to come
		assert.Len(s.t, harness.Strings(s.place.events.Of(s.ID)), len(want), "events at the end")
	})
}
