package pve

import "runtime"

// arch is Proxmox's name of this machine's architecture.
func arch() string {
	switch runtime.GOARCH {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	default: // amd64, arm64, riscv64
		return runtime.GOARCH
	}
}
