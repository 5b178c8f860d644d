package harness

import (
	"context"
	"path/filepath"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// StartNode makes the session's machine a stand-in Proxmox node, once in a
// session, with the bridge vmbr0. In a guest that is the session systemd starts
// its containers.
func StartNode(ctx context.Context, version ctconf.Version) (*node.Node, error) {
	settings := host.Settings{Version: version, Systemd: WholeGuest(), Slowness: Slowness()}
	n, err := node.Start(ctx, filepath.Join(Dir(), "node"), filepath.Join(Bin(), "pve-standin"), settings)
	if err != nil {
		return nil, err
	}
	return n, n.Bridge("vmbr0", "10.9.0.1/24")
}
