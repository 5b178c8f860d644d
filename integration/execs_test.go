package integration

import (
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// beside runs execs beside a container that lives until they are done.
func beside(f func(s *script)) func(s *script) {
	return func(s *script) {
		s.create()
		s.start()
		f(s)
		s.kill(uint32(unix.SIGKILL))
		s.wait()
		s.delete()
	}
}

func besideLog(between ...string) []string {
	all := append([]string{"create: ok", "start: ok"}, between...)
	return append(all, "kill 9: ok", "exit: 137", "delete: 137")
}

func besideEvents(between ...string) []string {
	all := append([]string{"create", "start"}, between...)
	return append(all, "exit 137", "delete 137")
}

var execs = []scenario{
	{
		name: "exec", args: forever,
		run: beside(func(s *script) {
			s.runExec("e0", nil, "true")
			s.runExec("e7", nil, "sh", "-c", "echo out; echo err >&2; exit 7")
		}),
		want: besideLog(
			"exec e0: ok", "start e0: ok", "exit e0: 0", `stdout e0: ""`, "delete e0: 0",
			"exec e7: ok", "start e7: ok", "exit e7: 7", `stdout e7: "out\n"`, `stderr e7: "err\n"`, "delete e7: 7"),
		events: besideEvents("exec-added e0", "exec-started e0", "exit e0 0", "exec-added e7", "exec-started e7", "exit e7 7"),
	},
	{
		name: "exec-with-user-environment-directory-and-umask", args: forever,
		run: beside(func(s *script) {
			umask := uint32(0o077)
			s.runExec("e", func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}, Umask: &umask}
				p.Env = []string{"PATH=/bin", "COLOUR=blue"}
				p.Cwd = "/home/app"
			}, "sh", "-c", "id -u; id -G; umask; pwd; echo $COLOUR")
		}),
		want: besideLog(
			"exec e: ok", "start e: ok", "exit e: 0", `stdout e: "1000\n1000 2000\n0077\n/home/app\nblue\n"`, "delete e: 0"),
	},
	{
		name: "exec-with-fewer-privileges", args: forever,
		run: beside(func(s *script) {
			s.runExec("e", func(p *specs.Process) {
				p.Capabilities = &specs.LinuxCapabilities{
					Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"},
				}
				p.NoNewPrivileges = true
				p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}}
			}, "sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ulimit -n; ulimit -Hn")
		}),
		want: besideLog(
			"exec e: ok", "start e: ok", "exit e: 0",
			`stdout e: "CapEff:\t0000000000000001\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\n77\n88\n"`, "delete e: 0"),
	},
	{
		name: "exec-is-killed", args: forever,
		run: beside(func(s *script) {
			s.exec("e", &harness.Stdio{}, nil, "sleep", "1000")
			s.execState("e")
			s.killExec("e", uint32(unix.SIGTERM))
			s.startExec("e")
			s.execState("e")
			s.killExec("e", uint32(unix.SIGTERM))
			s.waitExec("e")
			s.execState("e")
			s.killExec("e", uint32(unix.SIGTERM))
			s.deleteExec("e")
			s.killExec("e", uint32(unix.SIGTERM))
			s.execState("e")
		}),
		want: besideLog(
			"exec e: ok", "state e: created", "kill e 15: failed precondition", "start e: ok", "state e: running", "kill e 15: ok", "exit e: 143",
			"state e: stopped 143", "kill e 15: not found", "delete e: 143", "kill e 15: not found", "state e: not found"),
		events: besideEvents("exec-added e", "exec-started e", "exit e 143"),
	},
	{
		name: "exec-of-what-is-not-there", args: forever,
		run: beside(func(s *script) {
			for i, path := range []string{"nosuch", "/no/such", "/opt/directory", "/opt/notexec"} {
				id := string(rune('a' + i))
				s.exec(id, &harness.Stdio{}, nil, path)
				s.startExec(id)
				s.explains(path)
				s.execState(id)
				s.deleteExec(id)
			}
		}),
		want: besideLog(
			"exec a: ok", "start a: unknown", "state a: created", "delete a: 0",
			"exec b: ok", "start b: unknown", "state b: created", "delete b: 0",
			"exec c: ok", "start c: unknown", "state c: created", "delete c: 0",
			"exec d: ok", "start d: unknown", "state d: created", "delete d: 0"),
	},
	{
		name: "exec-refused", args: forever,
		run: func(s *script) {
			s.exec("early", &harness.Stdio{Null: true}, nil, "true")
			s.create()
			s.start()
			s.exec("e", &harness.Stdio{Null: true}, nil, "sleep", "1000")
			s.exec("e", &harness.Stdio{Null: true}, nil, "true")
			s.startExec("e")
			s.deleteExec("e")
			s.startExec("none")
			s.deleteExec("none")
			s.killExec("none", 9)
			s.kill(uint32(unix.SIGKILL))
			s.waitExec("e")
			s.wait()
			s.exec("late", &harness.Stdio{Null: true}, nil, "true")
			s.deleteExec("e")
			s.delete()
		},
		want: []string{
			"exec early: not found", "create: ok", "start: ok", "exec e: ok", "exec e: already exists", "start e: ok",
			"delete e: unknown", "start none: not found", "delete none: not found",
			"kill none 9: not found", "kill 9: ok", "exit e: 137", "exit: 137", "exec late: unknown", "delete e: 137", "delete: 137",
		},
		events: besideEvents("exec-added e", "exec-started e", "exit e 137"),
	},
	{
		name: "exec-started-twice", args: forever,
		flaw: "counts the exec twice, and panics when the container ends",
		run: beside(func(s *script) {
			s.exec("e", &harness.Stdio{Null: true}, nil, "sleep", "1000")
			s.startExec("e")
			s.startExec("e")
			s.killExec("e", uint32(unix.SIGKILL))
			s.waitExec("e")
			s.startExec("e")
			s.deleteExec("e")
			s.startExec("e")
		}),
		want: besideLog(
			"exec e: ok", "start e: ok", "start e: unknown", "kill e 9: ok", "exit e: 137", "start e: unknown", "delete e: 137",
			"start e: not found"),
		events: besideEvents("exec-added e", "exec-started e", "exit e 137"),
	},
	{
		name: "exec-deleted-before-its-start", args: forever,
		run: beside(func(s *script) {
			s.exec("e", &harness.Stdio{}, nil, "true")
			s.deleteExec("e")
			s.startExec("e")
		}),
		want:   besideLog("exec e: ok", "delete e: 0", "start e: not found"),
		events: besideEvents("exec-added e"),
	},
	{
		name: "exec-reads-stdin-to-its-end", args: forever,
		run: beside(func(s *script) {
			stdio := &harness.Stdio{Stdin: strings.NewReader("line\n")}
			s.exec("e", stdio, nil, "sh", "-c", "cat; echo end")
			s.startExec("e")
			s.waitExec("e")
			s.output("e", stdio)
			s.deleteExec("e")
		}),
		want: besideLog("exec e: ok", "start e: ok", "exit e: 0", `stdout e: "line\nend\n"`, "delete e: 0"),
	},
	{
		name: "exec-in-the-namespaces-and-cgroups-of-the-container", args: forever,
		run: beside(func(s *script) {
			s.runExec("e", nil, "sh", "-c",
				`for n in mnt net pid ipc uts; do [ "$(readlink /proc/1/ns/$n)" = "$(readlink /proc/self/ns/$n)" ] || echo other $n; done
				cmp /proc/1/cgroup /proc/self/cgroup && echo same`)
		}),
		want: besideLog("exec e: ok", "start e: ok", "exit e: 0", `stdout e: "same\n"`, "delete e: 0"),
	},
	{
		name: "exec-that-leaves-a-child-behind", args: forever,
		run: beside(func(s *script) {
			stdio := &harness.Stdio{}
			s.exec("e", stdio, nil, "sh", "-c", "sleep 1005 >/dev/null 2>&1 & echo parent")
			s.startExec("e")
			s.waitExec("e")
			s.output("e", stdio)
			s.deleteExec("e")
		}),
		want: besideLog("exec e: ok", "start e: ok", "exit e: 0", `stdout e: "parent\n"`, "delete e: 0"),
	},
	{
		name: "pids", args: forever,
		run: beside(func(s *script) {
			s.exec("e", &harness.Stdio{Null: true}, nil, "sleep", "1000")
			pid := s.startExec("e")
			infos, err := s.Pids(s.ctx)
			s.note("pids", err, len(infos))
			var pids []uint32
			for _, i := range infos {
				pids = append(pids, i.Pid)
			}
			assert.ElementsMatch(s.t, []uint32{s.Pid, pid}, pids)
			s.killExec("e", 9)
			s.waitExec("e")
			s.deleteExec("e")
		}),
		want: besideLog("exec e: ok", "start e: ok", "pids: 2", "kill e 9: ok", "exit e: 137", "delete e: 137"),
	},
}

var terminals = []scenario{
	{
		name: "terminal", args: []string{"sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && stty size"},
		terminal: true, stdin: gated, spec: []oci.SpecOpts{oci.WithTTYSize(101, 33)},
		run: func(s *script) {
			s.create()
			s.state()
			s.start()
			s.wait()
			s.awaitOut(s.stdio, "/dev/")
			s.note("has", nil, strings.Contains(s.stdio.Out(), "/dev/"))
			s.delete()
		},
		want: []string{"create: ok", "state: created terminal", "start: ok", "exit: 0", "has: true", "delete: 0"}, events: ended("0"),
	},
	{
		name: "terminal-has-the-size-of-the-spec", args: []string{"stty", "size"},
		terminal: true, stdin: gated, spec: []oci.SpecOpts{oci.WithTTYSize(101, 33)},
		want: []string{"create: ok", "start: ok", "exit: 0", `stdout: "33 101\r\n"`, "delete: 0"},
	},
	{
		name:     "terminal-is-resized-and-interrupted",
		args:     []string{"sh", "-c", "stty -echo; trap 'stty size' WINCH; trap 'echo int; exit 6' INT; echo ready; while :; do sleep 1000 & wait $!; done"},
		terminal: true, stdin: gated,
		run: func(s *script) {
			s.create()
			s.start()
			s.awaitOut(s.stdio, "ready")
			s.note("resize", s.ResizePty(s.ctx, "", 120, 40))
			s.awaitOut(s.stdio, "40 120")
			s.stdio.Stdin.(*gate).Open("\x03")
			s.wait()
			s.out()
			s.delete()
		},
		want: []string{"create: ok", "start: ok", "resize: ok", "exit: 6", `stdout: "ready\r\n40 120\r\nint\r\n"`, "delete: 6"},
	},
	{
		name: "terminal-of-an-exec", args: forever,
		run: beside(func(s *script) {
			stdio := &harness.Stdio{Terminal: true, Stdin: newGate()}
			s.exec("e", stdio, nil, "sh", "-c", "read line; test -t 0 && stty size; exit 9")
			s.startExec("e")
			s.note("resize", s.ResizePty(s.ctx, "e", 90, 20))
			stdio.Stdin.(*gate).Open("go\n")
			s.waitExec("e")
			s.output("e", stdio)
			s.deleteExec("e")
		}),
		want: besideLog("exec e: ok", "start e: ok", "resize: ok", "exit e: 9", `stdout e: "go\r\n20 90\r\n"`, "delete e: 9"),
	},
}
