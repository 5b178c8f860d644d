package shim

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/task"
)

// gc removes what containers have left on a Proxmox node: CTs that could not be
// removed when their container was deleted, or that a power loss left. It is
// for operators, and for a timer.
func gc(ctx context.Context, stdout io.Writer) error {
	c, err := config.Load(config.DefaultPath)
	if err != nil {
		return err
	}
	removed, err := task.GC(ctx, c)
	for _, vmid := range removed {
		if _, werr := fmt.Fprintf(stdout, "removed CT %d\n", vmid); werr != nil {
			return errors.Join(err, werr)
		}
	}
	return err
}
