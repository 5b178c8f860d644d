package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/task"
)

// gc removes what containers have left on a Proxmox node: CTs that could not be
// removed when their container was deleted, or that a power loss left, volumes
// of containers that containerd has removed, and templates that nobody has used
// for long, or at all if unused. It is for operators, and for a timer.
func gc(ctx context.Context, stdout io.Writer, unused bool) error {
	c, err := config.Load(config.DefaultPath)
	if err != nil {
		return err
	}
	if err := reaper.SetSubreaper(1); err != nil {
		return err
	}
	reap, stop := context.WithCancel(ctx)
	defer stop()
	go child.Reap(reap)
	removed, err := task.GC(ctx, c, unused)
	for _, vmid := range removed {
		if _, werr := fmt.Fprintf(stdout, "removed CT %d\n", vmid); werr != nil {
			return errors.Join(err, werr)
		}
	}
	return err
}

// templates lists the templates of images on this node.
func templates(stdout io.Writer) error {
	c, err := config.Load(config.DefaultPath)
	if err != nil {
		return err
	}
	all, err := task.Templates(c)
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "VMID\tSTORAGE\tSIZE\tCREATED\tUSED\tCLONES\tIMAGE")
	for _, t := range all {
		clones := fmt.Sprint(t.Clones)
		if !t.Made {
			clones = "being made"
		}
		fmt.Fprintf(w, "%d\t%s\t%dG\t%s\t%s\t%s\t%s\n", t.VMID, t.Storage, t.GiB,
			t.Created.Format(time.RFC3339), t.Used.UTC().Format(time.RFC3339), clones, t.Image)
	}
	fmt.Fprintf(w, "%d templates\n", len(all))
	return errors.Join(err, w.Flush())
}
