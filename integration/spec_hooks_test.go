package integration

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
)

// TestSpecHooks is about hooks: which, when, in which namespaces.
func TestSpecHooks(t *testing.T) { runRows(t, hookRows) }

var hookRows = []row{
	hookRow("prestart", "created", true),
	hookRow("createRuntime", "created", true),
}

// hookInto adds a hook that runs a shell script in the row's directory.
func hookInto(x *shown, hooks **specs.Hooks, kind, script string) {
	x.t.Helper()
	if *hooks == nil {
		*hooks = &specs.Hooks{}
	}
	hook := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "cd " + x.dir + " && " + script}, Env: []string{"PATH=/usr/bin:/bin", "HOOK=" + kind}}
	list := map[string]*[]specs.Hook{
		"prestart": &(*hooks).Prestart, "createRuntime": &(*hooks).CreateRuntime, "createContainer": &(*hooks).CreateContainer,
		"startContainer": &(*hooks).StartContainer, "poststart": &(*hooks).Poststart, "poststop": &(*hooks).Poststop,
	}[kind]
	*list = append(*list, hook)
}

func hookRow(kind, _ string, _ bool) row {
	return row{
		name: kind, fields: []string{"hooks." + kind},
		spec: func(x *shown, s *specs.Spec) {
			hookInto(x, &s.Hooks, kind, "cat > state; env > environment; echo $0 > argument")
		},
		look: func(x *shown) {
			assert.Contains(x.t, x.hostFile("state"), x.ID)
			assert.Contains(x.t, x.hostFile("environment"), "HOOK="+kind)
		},
	}
}
