// Command pve-standin is every program of the stand-in Proxmox host: which
// one, its own name says (pct, pvesh, pveversion, pve-node, Proxmox's hooks).
package main

import (
	"os"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/cli"
)

func main() {
	code, ok := cli.Run(os.Args)
	if !ok {
		println("pve-standin: called by a name that is none of pct, pvesh, pveversion, pve-node or a hook's")
		code = 2
	}
	os.Exit(code)
}
