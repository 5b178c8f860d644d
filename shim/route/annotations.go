package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/containerd/errdefs"
)

// Annotations that containerd's CRI plugin writes into each spec (its
// internal/cri/annotations), and nerdctl's.
const (
	criType             = "io.kubernetes.cri.container-type"
	criSandboxID        = "io.kubernetes.cri.sandbox-id"
	criSandboxName      = "io.kubernetes.cri.sandbox-name"
	criSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	criContainerName    = "io.kubernetes.cri.container-name"
	criImageName        = "io.kubernetes.cri.image-name"
	nerdctlName         = "nerdctl/name"
)

// Values of criType; "" outside of pods.
const (
	typeSandbox   = "sandbox"
	typeContainer = "container"
)

// checkAnnotations refuses annotations of ours that are unknown, or that the
// configuration does not allow. The first by name is reported.
func checkAnnotations(annotations map[string]string, allowed []string) error {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		switch {
		case !strings.HasPrefix(name, config.AnnotationPrefix):
		case !slices.Contains(config.Annotations(), name):
			return fmt.Errorf("annotation %s is not known, only %s: %w",
				name, strings.Join(config.Annotations(), ", "), errdefs.ErrInvalidArgument)
		case !slices.Contains(allowed, name):
			return fmt.Errorf("annotation %s is not allowed: lxc.allowed_annotations does not list it: %w",
				name, errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// podRole is the container's criType.
func podRole(annotations map[string]string) (string, error) {
	switch t := annotations[criType]; t {
	case "", typeSandbox, typeContainer:
		return t, nil
	default:
		return "", fmt.Errorf("annotation %s: %q is not one of %q: %w",
			criType, t, []string{typeSandbox, typeContainer}, errdefs.ErrInvalidArgument)
	}
}

// subject has the values that rules look at, by the conditions' keys, as far
// as they are known. A sandbox has neither a container name nor an image: of
// the pod's containers nothing is known yet.
func subject(ct Container) map[string]string {
	values := map[string]string{config.KeyNamespace: ct.Namespace, config.KeyID: ct.ID}
	for key, annotation := range map[string]string{
		config.KeyImage:               criImageName,
		config.KeyCRIContainerName:    criContainerName,
		config.KeyCRISandboxName:      criSandboxName,
		config.KeyCRISandboxNamespace: criSandboxNamespace,
		config.KeyNerdctlName:         nerdctlName,
	} {
		if v := ct.Annotations[annotation]; v != "" {
			values[key] = v
		}
	}
	return values
}
