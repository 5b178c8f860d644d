package oci

import (
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hookKind is one of the six lists of hooks.
type hookKind struct {
	name    string
	list    func(*specs.Hooks) []specs.Hook
	refused string // why the backend does not run them
}

const noHook = "is not supported by the LXC backend yet"

var hookKinds = []hookKind{
	//lint:ignore SA1019 deprecated, but in use
	{name: "prestart", list: func(h *specs.Hooks) []specs.Hook { return h.Prestart }},
	{name: "createRuntime", list: func(h *specs.Hooks) []specs.Hook { return h.CreateRuntime }},
	{name: "createContainer", list: func(h *specs.Hooks) []specs.Hook { return h.CreateContainer }, refused: noHook},
	{name: "startContainer", list: func(h *specs.Hooks) []specs.Hook { return h.StartContainer }, refused: noHook},
	{name: "poststart", list: func(h *specs.Hooks) []specs.Hook { return h.Poststart }},
	{name: "poststop", list: func(h *specs.Hooks) []specs.Hook { return h.Poststop }},
}

func translateHooks(in input, p *Plan) error {
	if in.spec.Hooks == nil {
		return nil
	}
	for _, kind := range hookKinds {
		path := "hooks." + kind.name
		list := kind.list(in.spec.Hooks)
		if len(list) > 0 && kind.refused != "" {
			return notImplemented(path, nil, kind.refused)
		}
		for i, h := range list {
			if err := checkHook(at(path, i), h); err != nil {
				return err
			}
		}
	}
	p.Hooks = in.spec.Hooks
	return nil
}

func checkHook(path string, h specs.Hook) error {
	if !filepath.IsAbs(h.Path) {
		return invalid(path+".path", h.Path, "is not an absolute path")
	}
	if h.Timeout != nil && *h.Timeout <= 0 {
		return invalid(path+".timeout", *h.Timeout, "is not more than 0 seconds")
	}
	if err := noNUL(path+".path", h.Path); err != nil {
		return err
	}
	if err := noNULs(path+".args", h.Args); err != nil {
		return err
	}
	return noNULs(path+".env", h.Env)
}
