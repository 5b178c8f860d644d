package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// proxmox shows a container as a CT. The node is the tests' stand-in: its pct
// answers as the genuine one, and runs real LXC containers.
func proxmox(ctx context.Context) (err error) {
	n, err := harness.StartNode(ctx, ctconf.PVE91)
	if err != nil {
		return err
	}
	w, err := harness.NewPVEWorld(ctx, harness.Versions[0], harness.Dir(), n)
	if err != nil {
		return errors.Join(err, n.Close())
	}
	defer func() {
		if err != nil {
			if log, readErr := os.ReadFile(w.LogFile()); readErr == nil {
				fmt.Fprintf(os.Stderr, "containerd's log:\n%s", log)
			}
		}
		err = errors.Join(err, w.Close(), n.Close())
	}()
	before, err := harness.Take(w)
	if err != nil {
		return err
	}
	d := &demo{world: w}
	d.heading("A container as a CT of a Proxmox node (a stand-in for one, on real LXC)")
	events, err := d.watch(ctx)
	if err != nil {
		return err
	}
	id := harness.Token() + "-web"
	if err := d.ct(ctx, id); err != nil {
		return err
	}
	fmt.Println("# its events, from `ctr events`:")
	lines, err := events.until(ctx, id, "/tasks/delete")
	if err != nil {
		return err
	}
	for _, l := range lines {
		fmt.Println(l)
	}
	return errors.Join(events.stop(), nothingLeft(w, before))
}

// ct is the life of one container, as Proxmox's tools show it.
func (d *demo) ct(ctx context.Context, id string) error {
	run := d.world.Ctr(ctx, "run", "--detach", "--runtime", runtimeName, "--memory-limit", "67108864", harness.Image, id, "sleep", "1000")
	if err := d.expect(ctx, 0, run); err != nil {
		return err
	}
	vmid, err := onlyCT()
	if err != nil {
		return err
	}
	state := filepath.Join("/run/nexcage", d.world.Namespace, id, "state.json")
	for _, step := range []struct {
		code int
		cmd  *exec.Cmd
	}{
		{0, d.tool(ctx, "pct", "list")},
		{0, d.tool(ctx, "pct", "config", vmid)},
		{0, d.tool(ctx, "pct", "status", vmid, "--verbose")},
		{0, exec.CommandContext(ctx, "grep", "-E", `^  "(status|pid|backend|host|vmid)":`, state)},
		{3, d.tool(ctx, "pct", "exec", vmid, "--", "sh", "-c", "echo inside as $(id -un), by pct; exit 3")},
		{3, d.world.Ctr(ctx, "task", "exec", "--exec-id", "look", id, "sh", "-c", "echo inside as $(id -un), by ctr; ps; exit 3")},
		{0, d.tool(ctx, "pct", "set", vmid, "--memory", "128")},
		{0, d.tool(ctx, "pct", "stop", vmid)},
		{0, d.world.Ctr(ctx, "task", "rm", id)},
		{0, d.world.Ctr(ctx, "container", "rm", id)},
		{0, d.tool(ctx, "pct", "list")},
	} {
		if err := d.expect(ctx, step.code, step.cmd); err != nil {
			return err
		}
	}
	return nil
}

// tool is one of Proxmox's commands.
func (d *demo) tool(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(d.world.Node.Sbin, name), args...)
}

// onlyCT is the one container of the node.
func onlyCT() (string, error) {
	guests, err := host.Guests()
	if err != nil {
		return "", err
	}
	var ids []string
	for id := range guests {
		ids = append(ids, strconv.Itoa(id))
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("guests of the node: %s, not one", strings.Join(ids, " "))
	}
	return ids[0], nil
}
