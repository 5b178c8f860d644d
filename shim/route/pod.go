package route

import (
	"fmt"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/containerd/errdefs"
)

// member routes a pod's container: where its sandbox said.
func member(c *config.Config, ct Container, env Env) (Decision, error) {
	id := ct.Annotations[criSandboxID]
	if id == "" {
		return Decision{}, fmt.Errorf("a pod's container without annotation %s: %w", criSandboxID, errdefs.ErrInvalidArgument)
	}
	backend, err := recorded(id, env)
	if err == nil {
		err = agrees(c, ct, id, backend)
	}
	if err != nil {
		return Decision{}, err
	}
	reason := "container of the pod whose sandbox is " + id
	if other, err := alone(c, ct); err == nil && other.Backend != backend && backend != c.Routing.Fallback {
		reason += fmt.Sprintf("; not %s by %s, as a pod is routed as a whole", other.Backend, other.Reason)
	}
	return Decision{Backend: backend, Reason: reason}, nil
}

func recorded(sandbox string, env Env) (string, error) {
	if env.Sandbox == nil {
		return "", fmt.Errorf("no record of sandboxes at hand: %w", errdefs.ErrFailedPrecondition)
	}
	backend, ok, err := env.Sandbox(sandbox)
	if err != nil {
		return "", fmt.Errorf("record of sandbox %s: %w", sandbox, err)
	}
	if !ok {
		return "", fmt.Errorf("sandbox %s has no record of its route: %w", sandbox, errdefs.ErrFailedPrecondition)
	}
	return backend, checkBackend("record of sandbox "+sandbox, backend)
}

// agrees refuses a container whose own annotation contradicts its pod. The
// pod's annotations come to its containers too, and lxc may have become the
// fallback.
func agrees(c *config.Config, ct Container, sandbox, backend string) error {
	want, ok := ct.Annotations[config.AnnotationBackend]
	if !ok || want == backend || want == config.BackendLXC && backend == c.Routing.Fallback {
		return nil
	}
	if err := checkBackend(config.AnnotationBackend, want); err != nil {
		return err
	}
	return fmt.Errorf("annotation %s: %q contradicts the pod of sandbox %s, which is %s's: annotate the pod: %w",
		config.AnnotationBackend, want, sandbox, backend, errdefs.ErrInvalidArgument)
}
