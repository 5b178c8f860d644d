package harness

import (
	"context"
	"path/filepath"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// StartNode makes the session's machine a stand-in Proxmox node, once in a
// session, with the bridge vmbr0.
func StartNode(ctx context.Context, version ctconf.Version) (*node.Node, error) {
	n, err := node.Start(ctx, filepath.Join(Dir(), "node"), filepath.Join(Bin(), "pve-standin"), version)
	if err != nil {
		return nil, err
	}
	return n, n.Bridge("vmbr0", "10.9.0.1/24")
}
