package task

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/shim/metadata"
)

// Annotations, and labels in containerd, that tell about a container.
const (
	annotationImage      = "io.kubernetes.cri.image-name"
	annotationPod        = "io.kubernetes.cri.sandbox-name"
	annotationPodSpace   = "io.kubernetes.cri.sandbox-namespace"
	annotationStopSignal = "org.opencontainers.image.stopSignal"
	labelPod             = "io.kubernetes.pod.name"
	labelPodSpace        = "io.kubernetes.pod.namespace"
	labelStopSignal      = "io.containerd.image.config.stop-signal" // of ctr and nerdctl
)

// askTimeout is how long containerd may take to tell about a container. It does
// within a millisecond or two, and nothing depends on it.
const askTimeout = time.Second

// told finds out what Proxmox is to be told of a container. What the annotations
// do not say is containerd asked for, while the container is made: what is
// returned waits for the answer.
func (s *Service) told(ctx context.Context, e *entry) func() lxc.Told {
	known := s.toldBySpec(e)
	if known.Image != "" || s.options.Address == "" {
		return func() lxc.Told { return known }
	}
	ask := sync.OnceValue(func() *metadata.Container {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		c, err := metadata.Get(ctx, s.options.Address, s.options.Namespace, e.state.ID)
		if err != nil {
			log.G(ctx).WithError(err).WithField("id", e.state.ID).Info("the CT's description lacks the image")
			return &metadata.Container{}
		}
		return c
	})
	go ask()
	return func() lxc.Told {
		t, c := known, ask()
		t.Image = c.Image
		if t.Pod == "" {
			t.Pod = podName(c.Labels[labelPodSpace], c.Labels[labelPod])
		}
		if e.spec.Annotations[annotationStopSignal] == "" {
			t.Halt = haltSignal(c.Labels[labelStopSignal])
		}
		return t
	}
}

func (s *Service) toldBySpec(e *entry) lxc.Told {
	a := e.spec.Annotations
	t := lxc.Told{
		About: pve.About{Namespace: s.options.Namespace, ID: e.state.ID, Image: a[annotationImage], Pod: podName(a[annotationPodSpace], a[annotationPod])},
		Halt:  haltSignal(a[annotationStopSignal]),
	}
	if e.spec.Process != nil {
		t.Command = e.spec.Process.Args
	}
	return t
}

func podName(namespace, name string) string {
	if name == "" {
		return ""
	}
	return namespace + "/" + name
}

var numericSignal = regexp.MustCompile(`^([1-9]|[1-5][0-9]|6[0-4]|SIGRTM(IN\+[0-9]{1,2}|AX-[0-9]{1,2}))$`)

// haltSignal is an image's stop signal as LXC writes it, SIGTERM if there is
// none that it knows.
func haltSignal(s string) string {
	s = strings.ToUpper(s)
	for _, name := range []string{s, "SIG" + s} {
		if unix.SignalNum(name) != 0 || numericSignal.MatchString(name) {
			return name
		}
	}
	return "SIGTERM"
}
