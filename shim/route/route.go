// Package route decides which backend a container gets.
//
// It is for the task service, which asks once, at Create, and records the
// answer. A decision depends on the configuration, on the container's names
// and annotations, and, in a pod, on what was recorded of the sandbox; the
// package keeps no state and starts nothing.
package route

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/containerd/errdefs"
)

// Container is what is known of a container at Create.
type Container struct {
	Namespace   string // containerd's
	ID          string
	Annotations map[string]string // of its spec
}

// Decision is where a container goes, and why.
type Decision struct {
	Backend string // config.BackendLXC or config.BackendCrun
	Reason  string // for people: state.json and the log
	// PodBackend is, of a pod's sandbox, what the pod's containers get; the
	// caller records it and Env.Sandbox returns it. Otherwise it is empty.
	PodBackend string
}

// Env is what a decision needs to know of the host.
type Env struct {
	// HasLXC tells whether LXC is installed; nil is LXCInstalled.
	HasLXC func() bool
	// Sandbox is the recorded PodBackend of a sandbox in the container's
	// namespace; ok is false if there is no record.
	Sandbox func(sandboxID string) (podBackend string, ok bool, err error)
}

// LXCInstalled tells whether the program at lxc.native.lxc_start is there.
func LXCInstalled(c *config.Config) bool {
	_, err := exec.LookPath(c.LXC.Native.LXCStart)
	return err == nil
}

// Decide routes a container: a pod's container follows its sandbox; otherwise
// the annotation io.nexcage.backend decides, then the first rule that matches,
// then the default. A sandbox itself, which only holds namespaces, is crun's.
//
// An annotation of ours that is unknown is an errdefs.ErrInvalidArgument, one
// that is not allowed an ErrPermissionDenied. Where lxc is wanted but not
// installed and there is no fallback, it is an ErrFailedPrecondition.
func Decide(c *config.Config, ct Container, env Env) (Decision, error) {
	d, err := decide(c, ct, env)
	if err != nil {
		return Decision{}, fmt.Errorf("route container %s: %w", ct.ID, err)
	}
	return d, nil
}

func decide(c *config.Config, ct Container, env Env) (Decision, error) {
	if err := checkAnnotations(ct.Annotations, c.LXC.AllowedAnnotations); err != nil {
		return Decision{}, err
	}
	kind, err := podRole(ct.Annotations)
	if err != nil {
		return Decision{}, err
	}
	if kind == typeContainer {
		return member(c, ct, env)
	}
	d, err := alone(c, ct)
	if err == nil {
		d, err = available(c, d, env)
	}
	if err != nil || kind != typeSandbox {
		return d, err
	}
	return Decision{
		Backend:    config.BackendCrun,
		Reason:     fmt.Sprintf("sandbox of a pod; its containers get %s: %s", d.Backend, d.Reason),
		PodBackend: d.Backend,
	}, nil
}

// alone decides without regard to other containers and to what is installed.
func alone(c *config.Config, ct Container) (Decision, error) {
	if b, ok := ct.Annotations[config.AnnotationBackend]; ok {
		return Decision{Backend: b, Reason: "annotation " + config.AnnotationBackend}, checkBackend(config.AnnotationBackend, b)
	}
	values := subject(ct)
	for i := range c.Routing.Rules {
		r, key := &c.Routing.Rules[i], fmt.Sprintf("routing.rules[%d]", i)
		ok, err := matches(r, values)
		if err != nil {
			return Decision{}, fmt.Errorf("%s.%w", key, err)
		}
		if ok {
			return Decision{Backend: r.Backend, Reason: key}, checkBackend(key+".backend", r.Backend)
		}
	}
	const key = "routing.default_backend"
	return Decision{Backend: c.Routing.DefaultBackend, Reason: key}, checkBackend(key, c.Routing.DefaultBackend)
}

// matches tells whether all conditions of a rule hold. One on a value that is
// not known does not.
func matches(r *config.Rule, values map[string]string) (bool, error) {
	conditions := r.Conditions()
	for _, cond := range conditions {
		re, err := regexp.Compile(cond.Pattern)
		if err != nil {
			return false, fmt.Errorf("%s: %w: %w", cond.Key, err, errdefs.ErrInvalidArgument)
		}
		if v, ok := values[cond.Key]; !ok || !re.MatchString(v) {
			return false, nil
		}
	}
	return len(conditions) > 0, nil
}

// available replaces lxc by the fallback on a host without LXC.
func available(c *config.Config, d Decision, env Env) (Decision, error) {
	if d.Backend != config.BackendLXC {
		return d, nil
	}
	has := env.HasLXC
	if has == nil {
		has = func() bool { return LXCInstalled(c) }
	}
	if has() {
		return d, nil
	}
	program := c.LXC.Native.LXCStart
	if c.Routing.Fallback == "" {
		return Decision{}, fmt.Errorf("%s asks for lxc, but %q is not found: install LXC (apt install lxc), set lxc.native.lxc_start, or choose crun with routing.default_backend or routing.fallback: %w",
			d.Reason, program, errdefs.ErrFailedPrecondition)
	}
	const key = "routing.fallback"
	return Decision{
		Backend: c.Routing.Fallback,
		Reason:  fmt.Sprintf("%s, because %s asks for lxc, but %q is not found", key, d.Reason, program),
	}, checkBackend(key, c.Routing.Fallback)
}

func checkBackend(key, backend string) error {
	known := []string{config.BackendLXC, config.BackendCrun}
	if slices.Contains(known, backend) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %q: %w", key, backend, known, errdefs.ErrInvalidArgument)
}
