// Command world starts a private containerd and a shell, or a command, beside
// it: for trying things by hand. Everything ends with the shell.
//
//	world                      a shell with containerd 2.4
//	world -containerd 1.7 ctr version
//	world -pve                 … on a stand-in Proxmox host
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/image"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
)

func main() { os.Exit(harness.Enter(run)) }

func run() int {
	version := flag.String("containerd", "2.4", "`version` of containerd: 2.4, 1.7 or 1.6")
	proxmox := flag.Bool("pve", false, "on a stand-in Proxmox host, with pct, pvesh and pveversion")
	debug := flag.Bool("debug", false, "containerd and the shims log at debug level")
	flag.Parse()
	if *debug {
		os.Setenv("NEXCAGE_TEST_DEBUG", "1")
	}
	code, err := shell(context.Background(), *version, *proxmox, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "world:", err)
		return 1
	}
	return code
}

func shell(ctx context.Context, version string, proxmox bool, argv []string) (int, error) {
	v, err := harness.FindVersion(version)
	if err != nil {
		return 1, err
	}
	w, err := newWorld(ctx, v, proxmox)
	if err != nil {
		return 1, err
	}
	before, err := harness.Take(w)
	if err != nil {
		return 1, err
	}
	if len(argv) == 0 {
		argv = []string{"bash", "--norc"}
		fmt.Printf("containerd %s, log %s\nimages: %s %s %s\n", version, w.LogFile(), image.Busybox, image.Scratch, image.Hostile)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(w.Env(), "PS1=world-"+version+"# ", "WORLD="+w.Dir,
		"BUSYBOX="+image.Busybox, "SCRATCH="+image.Scratch, "CROOKED="+image.Crooked, "HOSTILE="+image.Hostile)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	if left, err := harness.Left(w, before); err != nil {
		return 1, err
	} else if len(left) > 0 {
		fmt.Println("left behind:")
		for _, l := range left {
			fmt.Println(" ", l)
		}
	}
	return cmd.ProcessState.ExitCode(), w.Close()
}

func newWorld(ctx context.Context, v harness.Version, proxmox bool) (*harness.World, error) {
	if !proxmox {
		return harness.NewWorld(ctx, v, harness.Dir())
	}
	n, err := harness.StartNode(ctx, ctconf.PVE91)
	if err != nil {
		return nil, err
	}
	return harness.NewPVEWorld(ctx, v, harness.Dir(), n)
}
