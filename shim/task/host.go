package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/native"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
)

// host is where a container of the LXC backend is made.
type host struct {
	lxc.Host
	joiner    *helper.Joiner
	broadcast bool // lxc-monitord tells the exit status, not the kernel
}

// hostKind is the kind of host that the configuration chooses, or that this
// machine is.
func hostKind(c *config.Config) string {
	switch {
	case c.LXC.Host != config.HostAuto:
		return c.LXC.Host
	case pve.Detect():
		return config.HostPVE
	default:
		return config.HostNative
	}
}

func (s *Service) host(ctx context.Context, e *entry) (h host, err error) {
	self, err := os.Executable()
	if err != nil {
		return h, err
	}
	path, err := e.config.LXC.FindHelper(self)
	if err != nil {
		return h, err
	}
	if h.joiner, err = s.findJoiner(path); err != nil {
		return h, err
	}
	if e.state.Host == config.HostPVE {
		h.broadcast = broadcast(e.config.LXC.PVE.ExitStatus)
		h.Host, err = s.pveHost(ctx, e, path)
		return h, err
	}
	if err := refuseOnNative(e.spec.Annotations); err != nil {
		return h, err
	}
	h.broadcast = broadcast(e.config.LXC.Native.ExitStatus)
	h.Host, err = s.nativeHost(e.config, path)
	return h, err
}

func (s *Service) findJoiner(path string) (_ *helper.Joiner, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joiner == nil {
		s.joiner, err = helper.NewJoiner(path)
	}
	return s.joiner, err
}

// broadcast says whether lxc-monitord tells exit statuses, not the kernel.
func broadcast(setting string) bool {
	if setting == config.ExitStatusAuto {
		return !pidfd.KeepsStatus()
	}
	return setting == config.ExitStatusMonitor
}

// nativeHost is plain LXC as configured. The namespace has a lxcpath of its
// own, as ids are unique only in it.
func (s *Service) nativeHost(c *config.Config, helperPath string) (lxc.Host, error) {
	lxcStart, err := exec.LookPath(c.LXC.Native.LXCStart)
	if err != nil {
		return nil, fmt.Errorf("lxc.native.lxc_start: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return lxc.Native(&native.Host{
		LXCStart: lxcStart,
		LXCPath:  filepath.Join(c.LXC.Native.LXCPath, s.options.Namespace),
		Helper:   helperPath,
	}), nil
}

// refuseOnNative refuses annotations that mean something on Proxmox only.
func refuseOnNative(annotations map[string]string) error {
	for _, a := range config.Annotations() {
		if _, ok := annotations[a]; ok && a != config.AnnotationBackend {
			return fmt.Errorf("annotation %s: is for Proxmox VE, this host is plain LXC: %w", a, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// markers is where the host pve has its own files: lost at reboot, as the state.
func markers(stateDir string) string { return filepath.Join(stateDir, ".pve") }

// pveHost is the Proxmox node that this machine is.
func (s *Service) pveHost(ctx context.Context, e *entry, helperPath string) (lxc.Host, error) {
	node, err := pve.Local(markers(e.config.StateDir))
	if err != nil {
		return nil, err
	}
	collectAfterBoot(ctx, node)
	settings, err := pveSettings(&e.config.LXC.PVE, e.spec)
	if err != nil {
		return nil, err
	}
	return &lxc.PVE{
		Node:     node,
		Client:   &pve.Client{Pct: e.config.LXC.PVE.Pct},
		Helper:   helperPath,
		Settings: settings,
		Told:     s.told(ctx, e),
		Volumes:  volumes(e.config, node),
		InUse:    inUse,
	}, nil
}

func volumes(c *config.Config, node *pve.Node) *pve.Volumes {
	return &pve.Volumes{Node: node, Client: &pve.Client{Pct: c.LXC.PVE.Pct}, Dir: c.LXC.PVE.VolumeDir}
}

// pveRoot is the kind of the root file system.
func pveRoot(c *config.PVE, annotations map[string]string) (pve.Root, error) {
	kind, explicit := annotations[config.AnnotationRootfs]
	if !explicit {
		kind = c.Rootfs
	}
	errs := []error{config.CheckRootfs("annotation "+config.AnnotationRootfs, kind)}
	r := pve.Root{Volume: kind == config.RootfsVolume, Explicit: explicit, Storage: c.Storage, GiB: c.Size}
	if name, ok := annotations[config.AnnotationPVEStorage]; ok {
		r.Storage = name
		errs = append(errs, config.CheckStorage("annotation "+config.AnnotationPVEStorage, name))
	}
	if text, ok := annotations[config.AnnotationPVESize]; ok {
		r.GiB, _ = strconv.Atoi(text) // 0 is not allowed either
		errs = append(errs, config.CheckSize("annotation "+config.AnnotationPVESize, r.GiB))
	}
	if r.Volume && r.Storage == "" {
		errs = append(errs, fmt.Errorf("annotation %s: neither annotation %s nor lxc.pve.storage names a storage: %w", config.AnnotationRootfs, config.AnnotationPVEStorage, errdefs.ErrInvalidArgument))
	}
	return r, errors.Join(errs...)
}

// pveSettings are those of the configuration, as annotations change them. That
// these are allowed has been checked.
func pveSettings(c *config.PVE, spec *specs.Spec) (pve.Settings, error) {
	annotations := spec.Annotations
	s := pve.Settings{
		Range:    pve.Range{Min: c.VMIDMin, Max: c.VMIDMax},
		Tags:     c.Tags,
		Features: c.Features,
		OnBoot:   c.OnBoot,
	}
	var errs []error
	var err error
	if s.Nets, err = pveNets(c, spec); err != nil {
		errs = append(errs, err)
	}
	if s.Root, err = pveRoot(c, annotations); err != nil {
		errs = append(errs, err)
	}
	for name, set := range map[string]func(key, value string) error{
		config.AnnotationVMID: func(key, value string) (err error) {
			if s.VMID, err = strconv.Atoi(value); err != nil || s.VMID < pve.MinVMID || s.VMID > pve.MaxVMID {
				return fmt.Errorf("annotation %s: %q is not a number from %d to %d: %w", key, value, pve.MinVMID, pve.MaxVMID, errdefs.ErrInvalidArgument)
			}
			return nil
		},
		config.AnnotationPVETags: func(key, value string) error {
			more := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(",; ", r) })
			s.Tags = append(append([]string{}, s.Tags...), more...)
			for _, t := range more {
				if err := config.CheckTag("annotation "+key, t); err != nil {
					return err
				}
			}
			return nil
		},
		config.AnnotationPVEFeatures: func(key, value string) error {
			s.Features = value
			return config.CheckFeatures("annotation "+key, value)
		},
		config.AnnotationPVEOnBoot: func(key, value string) (err error) {
			if s.OnBoot = value == "1"; !s.OnBoot && value != "0" {
				return fmt.Errorf("annotation %s: %q is neither 0 nor 1: %w", key, value, errdefs.ErrInvalidArgument)
			}
			return nil
		},
	} {
		if value, ok := annotations[name]; ok {
			errs = append(errs, set(name, value))
		}
	}
	return s, errors.Join(errs...)
}

// pveNets are the interfaces of a CT: those configured, if the network namespace
// is a new one, as annotations change them.
func pveNets(c *config.PVE, spec *specs.Spec) (nets []pve.Net, err error) {
	for i := range pve.MaxNets {
		from, text := config.PVENet(i), spec.Annotations[config.PVENet(i)]
		if _, ok := spec.Annotations[from]; ok {
			from = "annotation " + from
		} else if i < len(c.Nets) && hasNewNetwork(spec) {
			from, text = fmt.Sprintf("lxc.pve.nets[%d]", i), c.Nets[i]
		} else {
			continue
		}
		n, perr := pve.ParseNet(i, text, c.Bridge)
		if perr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", from, perr))
		}
		nets = append(nets, n)
	}
	return nets, err
}

func hasNewNetwork(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path == ""
	})
}
