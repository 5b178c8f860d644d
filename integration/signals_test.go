package integration

import (
	"fmt"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// startText is what runc says of an executable that it cannot run; crun has
// texts of its own, which are passed on as they are.
var startText = map[string]string{
	"nosuch":         `exec: "nosuch": executable file not found in $PATH`,
	"/no/such":       `exec: "/no/such": stat /no/such: no such file or directory`,
	"/opt/directory": `exec: "/opt/directory": is a directory`,
	"/opt/notexec":   `exec: "/opt/notexec": permission denied`,
	"/opt/noformat":  `exec /opt/noformat: exec format error`, // where the kernel can tell only after crun has answered
}

// explains checks the text of the last step's error.
func (s *script) explains(path string) {
	s.t.Helper()
	if s.Runtime.Backend != "lxc" {
		assert.ErrorContains(s.t, s.last, "OCI runtime")
		assert.Regexp(s.t, "executable|is not a regular file", s.last)
		return
	}
	text, ok := startText[path]
	require.True(s.t, ok)
	assert.ErrorContains(s.t, s.last, text)
}

const trapper = `trap 'echo got usr1' USR1; trap 'echo got term; exit 143' TERM; echo ready; while :; do sleep 1000 & wait $!; done`

var signals = []scenario{
	{
		name: "sigkill", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.out()
			s.delete()
			s.kill(uint32(unix.SIGKILL))
		},
		want: []string{
			"create: ok", "start: ok", "state: running", "kill 9: ok", "exit: 137", "state: stopped 137",
			"kill 9: not found", `stdout: ""`, "delete: 137", "kill 9: not found",
		},
		events: ended("137"),
	},
	{
		name: "sigterm-that-is-handled", args: []string{"sh", "-c", trapper},
		run: func(s *script) {
			s.create()
			s.start()
			s.awaitOut(s.stdio, "ready")
			s.kill(uint32(unix.SIGUSR1))
			s.awaitOut(s.stdio, "usr1")
			s.kill(uint32(unix.SIGTERM))
			s.wait()
			s.out()
			s.delete()
		},
		want: []string{
			"create: ok", "start: ok", "kill 10: ok", "kill 15: ok", "exit: 143", `stdout: "ready\ngot usr1\ngot term\n"`, "delete: 143",
		},
		events: ended("143"),
	},
	{
		name: "sigterm-that-is-not-handled", args: []string{"sleep", "1000"},
		spec: []oci.SpecOpts{oci.WithHostNamespace(specs.PIDNamespace)},
		run: func(s *script) {
			s.create()
			s.start()
			s.kill(uint32(unix.SIGTERM))
			s.wait()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "kill 15: ok", "exit: 143", "delete: 143"}, events: ended("143"),
	},
	{
		name: "kill-in-created-state", args: forever,
		run: func(s *script) {
			s.create()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.state()
			s.start()
			s.delete()
		},
		want: []string{
			"create: ok", "kill 9: ok", "exit: 137", "state: stopped 137", "start: unknown", "delete: 137",
		},
		events: []string{"create", "exit 137", "delete 137"},
	},
	{
		name: "kill-all", args: []string{"sh", "-c", "sleep 1001 & sleep 1002 & echo ready; sleep 1003"},
		run: func(s *script) {
			s.create()
			s.start()
			s.awaitOut(s.stdio, "ready")
			s.note("kill all", s.Kill(s.ctx, "", uint32(unix.SIGKILL), true))
			s.wait()
			s.out()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "kill all: ok", "exit: 137", `stdout: "ready\n"`, "delete: 137"}, events: ended("137"),
	},
	{
		name: "the-end-of-the-first-process-ends-the-others-of-a-shared-pid-namespace",
		args: []string{"sh", "-c", "sleep 1004 & exec sleep 0.1"}, spec: []oci.SpecOpts{oci.WithHostNamespace(specs.PIDNamespace)},
		want: lived("0"), events: ended("0"),
	},
	{
		name: "a-bad-signal", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			s.kill(250)
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "kill 250: unknown", "kill 9: ok", "exit: 137", "delete: 137"}, events: ended("137"),
	},
}

var refusals = []scenario{
	{
		name: "delete-of-a-running-task", args: forever,
		run: func(s *script) {
			s.create()
			s.start()
			s.delete()
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
			s.delete()
		},
		want: []string{
			"create: ok", "start: ok", "delete: unknown", "state: running", "kill 9: ok", "exit: 137", "delete: 137",
			"delete: not found",
		},
		events: ended("137"),
	},
	{
		name: "delete-of-a-created-task", args: forever,
		run: func(s *script) {
			s.create()
			_, err := s.Delete(s.ctx, "") // containerd's service answers before it knows the status
			s.note("delete", err)
			s.state()
		},
		want: []string{"create: ok", "delete: ok", "state: not found"},
	},
	{
		name: "second-create-and-second-start", args: forever,
		run: func(s *script) {
			s.create()
			s.note("create again", s.Create(s.ctx, &harness.Stdio{Null: true}))
			s.start()
			s.start()
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.start()
			s.delete()
			s.start()
		},
		want: []string{
			"create: ok", "create again: already exists", "start: ok", "start: unknown", "state: running", "kill 9: ok",
			"exit: 137", "start: unknown", "delete: 137", "start: not found",
		},
		events: ended("137"),
	},
	{
		name: "many-waiters", args: []string{"sh", "-c", "read line; exit 5"}, stdin: gated,
		run: func(s *script) {
			s.create()
			s.start()
			const waiters = 5
			results := make(chan string, waiters)
			for range waiters {
				go func() {
					status, _, err := s.Wait(s.ctx, "")
					results <- fmt.Sprintf("%d %v", status, err)
				}()
			}
			s.stdio.Stdin.(*gate).Open("go\n")
			for range waiters {
				s.note("waiter", nil, <-results)
			}
			s.wait()
			s.delete()
		},
		want: []string{
			"create: ok", "start: ok", "waiter: 5 <nil>", "waiter: 5 <nil>", "waiter: 5 <nil>", "waiter: 5 <nil>", "waiter: 5 <nil>",
			"exit: 5", "delete: 5",
		},
		events: ended("5"),
	},
	{
		name: "a-second-life-of-the-same-id", args: []string{"sh", "-c", "echo life; exit 4"},
		run: func(s *script) {
			simple(s)
			s.stdio = s.stdio.Clone()
			simple(s)
		},
		want:   append(life4, life4...),
		events: append(ended("4"), ended("4")...),
	},
}

var life4 = []string{"create: ok", "start: ok", "exit: 4", `stdout: "life\n"`, "delete: 4"}
