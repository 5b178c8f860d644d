package crun

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// Destroy removes a container whose shim and whose bundle have gone, from the
// options that it was created with. One that the engine does not know is no
// error.
func Destroy(ctx context.Context, o *options.Options, namespace, id, bundle string) error {
	if !exists(stateOf(o, namespace, id)) {
		return mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0)
	}
	path, err := exec.LookPath(cmp.Or(o.GetBinaryName(), "crun"))
	if err != nil {
		return err
	}
	args := []string{path, "--root", filepath.Dir(stateOf(o, namespace, id)), "delete", "--force", id}
	said, status, err := capture(ctx, &exec.Cmd{Path: path, Args: args}, func(cmd *exec.Cmd, w *os.File) { cmd.Stdout, cmd.Stderr = w, w })
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("%q: exit status %d: %s", args, status, bytes.TrimSpace(said))
	}
	if err := Destroyed(o, namespace, id); err != nil {
		return err
	}
	return mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0)
}

// Destroyed returns an error if the engine still has the container.
func Destroyed(o *options.Options, namespace, id string) error {
	if dir := stateOf(o, namespace, id); exists(dir) {
		return fmt.Errorf("%s was not able to delete the container: %s is still there: %w",
			cmp.Or(o.GetBinaryName(), "crun"), dir, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// stateOf is the engine's directory of a container.
func stateOf(o *options.Options, namespace, id string) string {
	return filepath.Join(cmp.Or(o.GetRoot(), process.RuncRoot), namespace, id)
}
