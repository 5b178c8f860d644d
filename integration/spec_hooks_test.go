//lint:file-ignore SA1019 deprecated hooks are run, too

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSpecHooks is about hooks: which, when, in which namespaces, with what.
func TestSpecHooks(t *testing.T) { runRows(t, slices.Concat(hookRows, failingHooks())) }

// report is what a hook writes about itself, below the directory it gets as
// argument.
const report = `cat > $1/state; env > $1/env; for n in mnt net pid; do readlink /proc/self/ns/$n > $1/$n; done; printf '%s|' "$0" "$@" > $1/args`

// hook is a shell script as a hook of a kind, and with what it is told. It
// should read its stdin: crun fails, now and then, where nobody does.
func hook(kind, script, dir string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script, "name of " + kind, dir, "a  b"}, Env: []string{"PATH=/usr/bin:/bin", "HOOK=" + kind}}
}

func addHook(s *specs.Spec, kind string, h specs.Hook) {
	if s.Hooks == nil {
		s.Hooks = &specs.Hooks{}
	}
	list := map[string]*[]specs.Hook{
		"prestart": &s.Hooks.Prestart, "createRuntime": &s.Hooks.CreateRuntime, "createContainer": &s.Hooks.CreateContainer,
		"startContainer": &s.Hooks.StartContainer, "poststart": &s.Hooks.Poststart, "poststop": &s.Hooks.Poststop,
	}[kind]
	*list = append(*list, h)
}

// hookInto adds a hook that runs a shell script in the row's directory.
func hookInto(x *shown, hooks **specs.Hooks, kind, script string) {
	x.t.Helper()
	s := &specs.Spec{Hooks: *hooks}
	addHook(s, kind, hook(kind, "cd "+x.dir+" && "+script, x.dir))
	*hooks = s.Hooks
}

// reports finds that a hook ran with the state, the arguments and the
// environment that it should have, and in which namespaces.
func (x *shown) reports(kind string, read func(name string) string, namespaces map[string]string, statuses ...specs.ContainerState) {
	x.t.Helper()
	var state specs.State
	require.NoError(x.t, json.Unmarshal([]byte(read("state")), &state))
	assert.Equal(x.t, x.ID, state.ID)
	assert.Contains(x.t, statuses, state.Status)
	assert.Equal(x.t, "value", state.Annotations["key"])
	if kind != "startContainer" { // crun says "/": as the process sees it
		assert.Equal(x.t, x.ID, filepath.Base(state.Bundle), "the bundle is %s", state.Bundle)
	}
	if slices.Contains([]string{"prestart", "createRuntime", "poststart"}, kind) {
		assert.Equal(x.t, int(x.Pid), state.Pid) // elsewhere it is the container's, or none
	}
	assert.Equal(x.t, "name of "+kind, strings.Split(read("args"), "|")[0])
	assert.Equal(x.t, "a  b", strings.Split(read("args"), "|")[2])
	assert.Contains(x.t, strings.Split(read("env"), "\n"), "HOOK="+kind)
	for name, want := range namespaces {
		assert.Equal(x.t, want, strings.TrimSpace(read(name)), "%s namespace", name)
	}
}

func (x *shown) runtimeNamespaces() map[string]string {
	return map[string]string{"mnt": readlink(x.t, "/proc/self/ns/mnt"), "net": readlink(x.t, "/proc/self/ns/net"), "pid": readlink(x.t, "/proc/self/ns/pid")}
}

func withHook(kind string) func(*shown, *specs.Spec) {
	return func(x *shown, s *specs.Spec) {
		s.Annotations = map[string]string{"key": "value"}
		addHook(s, kind, hook(kind, report, x.dir))
	}
}

// atCreate is a hook in the runtime's namespaces, during create.
func atCreate(x *shown, kind string, status ...specs.ContainerState) {
	x.reports(kind, x.hostFile, x.runtimeNamespaces(), status...)
}

var hookRows = []row{
	{
		name: "prestart", fields: []string{"hooks.prestart"}, spec: withHook("prestart"),
		look: func(x *shown) { atCreate(x, "prestart", specs.StateCreating, specs.StateCreated) },
	},
	{
		name: "createRuntime", fields: []string{"hooks.createRuntime"}, spec: withHook("createRuntime"),
		look: func(x *shown) { atCreate(x, "createRuntime", specs.StateCreating, specs.StateCreated) },
	},
	{
		name: "createContainer", fields: []string{"hooks.createContainer"}, spec: withHook("createContainer"),
		look: func(x *shown) { // the host's files, in the container's namespaces
			want := map[string]string{"mnt": x.namespace("mnt"), "net": x.namespace("net")}
			x.reports("createContainer", x.hostFile, want, specs.StateCreating, specs.StateCreated)
		},
	},
	{
		name: "startContainer", fields: []string{"hooks.startContainer"},
		spec: func(x *shown, s *specs.Spec) {
			s.Annotations = map[string]string{"key": "value"}
			addHook(s, "startContainer", hook("startContainer", report, "/tmp"))
		},
		look: func(x *shown) { // its files are the container's
			want := map[string]string{"mnt": x.namespace("mnt"), "net": x.namespace("net"), "pid": x.namespace("pid")}
			read := func(name string) string { return x.inside("cat", "/tmp/"+name) }
			x.reports("startContainer", read, want, specs.StateCreated, "starting") // the second is crun's own
		},
	},
	{
		name: "poststart", fields: []string{"hooks.poststart"}, spec: withHook("poststart"),
		look: func(x *shown) { x.reports("poststart", x.hostFile, x.runtimeNamespaces(), specs.StateRunning) },
	},
	{
		name: "poststop", fields: []string{"hooks.poststop"}, spec: withHook("poststop"),
		look:  func(x *shown) { assert.NoFileExists(x.t, filepath.Join(x.dir, "state")) },
		after: func(x *shown) { x.reports("poststop", x.hostFile, x.runtimeNamespaces(), specs.StateStopped) },
	},
	{
		name: "hooks-in-their-order", fields: []string{
			"hooks.prestart", "hooks.createRuntime", "hooks.createContainer", "hooks.poststart", "hooks.poststop",
		},
		spec: func(x *shown, s *specs.Spec) {
			for _, kind := range []string{"poststop", "poststart", "createContainer", "createRuntime", "prestart"} {
				for _, n := range []string{"1", "2"} {
					addHook(s, kind, hook(kind, "cat > /dev/null; echo "+kind+" "+n+" >> $1/order", x.dir))
				}
			}
		},
		after: func(x *shown) {
			assert.Equal(x.t, "prestart 1\nprestart 2\ncreateRuntime 1\ncreateRuntime 2\ncreateContainer 1\ncreateContainer 2\n"+
				"poststart 1\npoststart 2\npoststop 1\npoststop 2\n", x.hostFile("order"))
		},
	},
	{
		name: "hook-environment-is-its-own", fields: []string{"hooks.createRuntime[].env", "hooks.createRuntime[].path", "hooks.createRuntime[].args"},
		spec: func(x *shown, s *specs.Spec) {
			script := filepath.Join(x.dir, "script")
			require.NoError(x.t, os.WriteFile(script, []byte("#!/bin/sh\ncat > /dev/null; cd "+x.dir+"; tr '\\0' '\\n' < /proc/$$/environ > env; echo $# > args\n"), 0o755))
			addHook(s, "createRuntime", specs.Hook{Path: script, Args: []string{"any name"}, Env: []string{"PATH=/usr/bin:/bin", "ONLY=this"}})
		},
		look: func(x *shown) {
			assert.Equal(x.t, "PATH=/usr/bin:/bin\nONLY=this\n", x.hostFile("env"))
			assert.Equal(x.t, "0\n", x.hostFile("args"))
		},
	},
}

// failingHooks end the creation, and whatever of the container was there.
func failingHooks() (rows []row) {
	for _, kind := range []string{"prestart", "createRuntime", "createContainer"} {
		rows = append(rows,
			row{
				name: kind + "-fails", fields: []string{"hooks." + kind}, refused: "why it failed",
				spec: func(x *shown, s *specs.Spec) {
					addHook(s, kind, hook(kind, "echo why it failed >&2; exit 3", x.dir))
				},
			},
			row{
				name: kind + "-takes-too-long", fields: []string{"hooks." + kind + "[].timeout"}, refused: "hooks." + kind,
				spec: func(x *shown, s *specs.Spec) {
					h := hook(kind, "exec sleep 1000", x.dir)
					h.Timeout = ptr(1)
					addHook(s, kind, h)
				},
			})
	}
	return rows
}
