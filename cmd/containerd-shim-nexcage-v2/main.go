// Command containerd-shim-nexcage-v2 is the containerd runtime
// io.containerd.nexcage.v2. containerd starts it; there is no use in running
// it by hand, but for -v.
package main

import (
	"os"

	"github.com/cageforge/containerd-shim-nexcage/shim"
)

func main() { os.Exit(shim.Main()) }
