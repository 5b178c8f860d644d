package oci

import (
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// hookKind is one of the six lists of hooks.
type hookKind struct {
	name string
	list func(*specs.Hooks) []specs.Hook
}

var hookKinds = []hookKind{
	//lint:ignore SA1019 deprecated, but in use
	{name: "prestart", list: func(h *specs.Hooks) []specs.Hook { return h.Prestart }},
	{name: "createRuntime", list: func(h *specs.Hooks) []specs.Hook { return h.CreateRuntime }},
	{name: "createContainer", list: func(h *specs.Hooks) []specs.Hook { return h.CreateContainer }},
	{name: "startContainer", list: func(h *specs.Hooks) []specs.Hook { return h.StartContainer }},
	{name: "poststart", list: func(h *specs.Hooks) []specs.Hook { return h.Poststart }},
	{name: "poststop", list: func(h *specs.Hooks) []specs.Hook { return h.Poststop }},
}

func translateHooks(in input, p *Plan) error {
	if in.spec.Hooks == nil {
		return nil
	}
	for _, kind := range hookKinds {
		path := "hooks." + kind.name
		for i, h := range kind.list(in.spec.Hooks) {
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

// HookOps are the operations that make the helper a createContainer hook: with
// the rights of the runtime, in dir; or in / where that is root of a user
// namespace, who may not enter dir.
func HookOps(h specs.Hook, o ProcessOptions, dir string) (prepare, start []initop.Op) {
	argv, env := hookExec(h)
	prepare = append(sessionOps(o), initop.Umask(defaultUmask), initop.Chdir("/"), initop.TryChdir(dir), initop.Lookup(h.Path, ""))
	return prepare, []initop.Op{initop.CloseFrom(unix.Stderr + 1), initop.Exec(argv, env)}
}

// hookExec are the arguments and the environment of a hook: exactly those of
// the spec, but there is always an argv[0].
func hookExec(h specs.Hook) (argv, env []string) {
	if len(h.Args) == 0 {
		return []string{h.Path}, h.Env
	}
	return h.Args, h.Env
}
