// Package vm runs commands in a virtual machine that is like the users' hosts:
// a Debian with systemd as process 1, cgroup v2 and AppArmor.
//
// An Image is a root file system of Debian's packages, made once. A Machine is
// QEMU, in software emulation, on a throw-away copy of it, with a second disk
// that carries what is under test, and no network. A Client runs commands and
// moves files through the agent in the guest, over a virtio-serial port.
//
// It is for this repository's own tests only, and needs root to make images.
package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Distributions are those that there are images of, newest first.
var Distributions = []string{"trixie", "bookworm"}

func checkDistribution(name string) error {
	if !slices.Contains(Distributions, name) {
		return fmt.Errorf("distribution %q is none of %s", name, strings.Join(Distributions, ", "))
	}
	return nil
}

// Share is where the guest has the disk of what is under test.
const Share = "/nexcage"

// portName is the virtio-serial port of the agent.
const portName = "nexcage.agent"

// Cache is the directory of images and of the sockets of running machines:
// NEXCAGE_VM, or guests below the directory of the build.
func Cache(bin string) string {
	if dir := os.Getenv("NEXCAGE_VM"); dir != "" {
		return dir
	}
	return filepath.Join(bin, "guests")
}
