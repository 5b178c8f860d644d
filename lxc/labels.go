package lxc

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/lsm"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// checkLabels refuses labels of security modules that this kernel does not
// have, or has not enabled, as runc does.
func checkLabels(p *specs.Process) error {
	if p.ApparmorProfile != "" && !lsm.AppArmor() {
		return fmt.Errorf("process.apparmorProfile: %q: AppArmor is not enabled on this host: %w", p.ApparmorProfile, errdefs.ErrFailedPrecondition)
	}
	if p.SelinuxLabel != "" && !lsm.SELinux() {
		return noSELinux("process.selinuxLabel", p.SelinuxLabel)
	}
	return nil
}

func noSELinux(path, label string) error {
	return fmt.Errorf("%s: %q: SELinux is not enabled on this host: %w", path, label, errdefs.ErrFailedPrecondition)
}

// checkHost refuses what this host can not do for a plan that is valid
// everywhere.
func checkHost(plan *oci.Plan) error {
	if err := checkNamespaces(plan); err != nil {
		return err
	}
	if plan.MountLabel != "" && !lsm.SELinux() {
		return noSELinux("linux.mountLabel", plan.MountLabel)
	}
	if err := checkListener(plan.Filter); err != nil {
		return err
	}
	return checkLabels(plan.Process)
}

// checkListener finds that there is a socket for the listener of the seccomp
// filter. It is connected to when there is a listener, at Start; that it is
// missing shows at Create, as with runc.
func checkListener(f *oci.Filter) error {
	if f == nil || f.ListenerPath == "" {
		return nil
	}
	st, err := os.Stat(f.ListenerPath)
	if err == nil && st.Mode().Type() != os.ModeSocket {
		err = errors.New("is not a socket")
	}
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %q: %w", f.ListenerPath, err)
	}
	return nil
}

func appArmorAttr() string {
	if lsm.AppArmorAttr() {
		return oci.AppArmorAttr
	}
	return oci.SharedAttr
}

// withProcfs adds the host's /proc to the files for operations that set a
// label; done closes it. It is the first descriptor after the streams.
func withProcfs(ops []initop.Op, streams []*os.File) (files []*os.File, done func(), err error) {
	if initop.Descriptors(ops) <= len(streams) {
		return streams, func() {}, nil
	}
	procfs, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	return append(streams[:len(streams):len(streams)], procfs), func() { procfs.Close() }, nil
}
