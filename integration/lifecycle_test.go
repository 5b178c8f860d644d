package integration

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// TestLifecycle runs every scenario with both backends under every containerd,
// and with containerd's own runc shim, which shows that the expectations are
// what users of containerd are used to.
func TestLifecycle(t *testing.T) {
	var all []scenario
	for _, table := range [][]scenario{outputs, failures, signals, refusals, execs, terminals, resources} {
		all = append(all, table...)
	}
	combinations(t, func(t *testing.T, w *place, rt harness.Runtime) {
		for _, sc := range all {
			t.Run(sc.name, func(t *testing.T) { sc.test(t, w, rt) })
		}
	})
}

// ended are the events of a task that ran and was deleted.
func ended(status string) []string {
	return []string{"create", "start", "exit " + status, "delete " + status}
}

func lived(exit string, between ...string) []string {
	all := append([]string{"create: ok", "start: ok"}, between...)
	return append(all, "exit: "+exit, `stdout: ""`, "delete: "+exit)
}

// forever runs until it is killed, and cannot be asked to end: a process 1 has
// no default action for signals.
var forever = []string{"sleep", "1000"}

var outputs = []scenario{
	{name: "exit-0", args: []string{"true"}, want: lived("0"), events: ended("0")},
	{name: "exit-1", args: []string{"false"}, want: lived("1"), events: ended("1")},
	{name: "exit-7", args: []string{"sh", "-c", "exit 7"}, want: lived("7"), events: ended("7")},
	{name: "exit-137-by-itself", args: []string{"sh", "-c", "exit 137"}, want: lived("137"), events: ended("137")},
	{name: "exit-143-by-itself", args: []string{"sh", "-c", "exit 143"}, want: lived("143"), events: ended("143")},
	{
		name: "stdout-and-stderr", args: []string{"sh", "-c", "echo out; echo err >&2"},
		want:   []string{"create: ok", "start: ok", "exit: 0", `stdout: "out\n"`, `stderr: "err\n"`, "delete: 0"},
		events: ended("0"),
	},
	{
		name: "state-at-every-step", args: []string{"sh", "-c", "read line; exit 3"},
		stdin: text("go\n"),
		run: func(s *script) {
			s.state()
			s.create()
			s.state()
			s.start()
			s.wait()
			s.state()
			s.delete()
			s.state()
		},
		want: []string{
			"state: not found", "create: ok", "state: created", "start: ok", "exit: 3", "state: stopped 3", "delete: 3", "state: not found",
		},
		events: ended("3"),
	},
	{
		name: "a-mebibyte-each-on-stdout-and-stderr",
		args: []string{"sh", "-c", "yes out | head -c 1048576; yes error | head -c 1048576 >&2"},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			"stdout: " + quote(strings.Repeat("out\n", 1<<18)),
			"stderr: " + quote(strings.Repeat("error\n", 1<<20/6+1)[:1<<20]), "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "a-mebibyte-in-parallel",
		args: []string{"sh", "-c", "yes out | head -c 1048576 & yes error | head -c 1048576 >&2; wait"},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			"stdout: " + quote(strings.Repeat("out\n", 1<<18)),
			"stderr: " + quote(strings.Repeat("error\n", 1<<20/6+1)[:1<<20]), "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "stdin-to-its-end", args: []string{"sh", "-c", "cat; echo end"},
		stdin: text("some\ninput\n"),
		want:  []string{"create: ok", "start: ok", "exit: 0", `stdout: "some\ninput\nend\n"`, "delete: 0"}, events: ended("0"),
	},
	{
		name: "no-stdin-is-an-empty-stdin", args: []string{"sh", "-c", "cat; echo end"},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "end\n"`, "delete: 0"}, events: ended("0"),
	},
	{
		name: "null-io", args: []string{"sh", "-c", "echo nobody reads this; cat"}, null: true,
		want: lived("0"), events: ended("0"),
	},
	{
		name: "environment-and-directory",
		args: []string{"sh", "-c", `echo "$GREETING"; pwd; id -u; id -g; id -G; umask`},
		spec: []oci.SpecOpts{
			oci.WithEnv([]string{"GREETING=spaces  and 'quotes' \\ \" and\nlines"}), oci.WithProcessCwd("/tmp"),
			oci.WithUIDGID(1000, 1000), oci.WithAppendAdditionalGroups("extra"),
		},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			`stdout: "spaces  and 'quotes' \\ \" and\nlines\n/tmp\n1000\n1000\n1000 2000\n0022\n"`, "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "arguments-arrive-as-they-are",
		args: []string{"sh", "-c", `for a in "$@"; do echo "<$a>"; done`, "sh", "", "a b", "#c", "'", `"`, `\n`, "a\nb", "lxc.init.cmd = x", "é"},
		want: []string{
			"create: ok", "start: ok", "exit: 0",
			"stdout: " + quote("<>\n<a b>\n<#c>\n<'>\n<\">\n<\\n>\n<a\nb>\n<lxc.init.cmd = x>\n<é>\n"), "delete: 0",
		},
		events: ended("0"),
	},
	{
		name: "hostname", args: []string{"hostname"}, spec: []oci.SpecOpts{oci.WithHostname("box")},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "box\n"`, "delete: 0"}, events: ended("0"),
	},
	{
		name: "process-1-of-its-own", args: []string{"sh", "-c", "echo $$"},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "1\n"`, "delete: 0"}, events: ended("0"),
	},
	{
		name: "a-descendant-that-holds-stdout", args: []string{"sh", "-c", "sleep 1000 & echo out"},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "out\n"`, "delete: 0"}, events: ended("0"),
	},
}

var failures = []scenario{
	failing("missing-executable", "nosuch"),
	failing("missing-path", "/no/such"),
	failing("directory", "/opt/directory"),
	failing("not-executable", "/opt/notexec"),
	failingStart("neither-elf-nor-script", "/opt/noformat"),
	{
		name: "missing-working-directory", args: []string{"pwd"}, spec: []oci.SpecOpts{oci.WithProcessCwd("/created/for/it")},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "/created/for/it\n"`, "delete: 0"}, events: ended("0"),
	},
}

// failing is a task whose executable cannot be run, which Create finds out.
func failing(name, path string) scenario {
	return scenario{
		name: name, args: []string{path},
		run: func(s *script) {
			s.create()
			s.explains(path)
			s.state()
		},
		want: []string{"create: unknown", "state: not found"}, events: []string{},
	}
}

// failingStart is one where only the kernel can tell.
func failingStart(name, path string) scenario {
	return scenario{
		name: name, args: []string{path},
		only: "lxc",
		run: func(s *script) {
			s.create()
			s.start()
			s.explains(path)
			_, err := s.Delete(s.ctx, "")
			s.note("delete", err)
		},
		want: []string{"create: ok", "start: unknown", "delete: ok"},
	}
}
