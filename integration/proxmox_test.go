package integration

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// proxmoxNode is the session's stand-in Proxmox node, started by the first test
// that needs it.
var proxmoxNode *node.Node

// proxmox is a containerd on a Proxmox node.
func proxmox(t *testing.T) *place {
	t.Helper()
	life := context.Background() // as long as the session's
	if proxmoxNode == nil {
		n, err := harness.StartNode(life, ctconf.PVE91)
		require.NoError(t, err)
		proxmoxNode = n
	}
	const key = "pve"
	if p, ok := worlds[key]; ok {
		return p
	}
	w, err := harness.NewPVEWorld(life, harness.Versions[0], harness.Dir(), proxmoxNode)
	require.NoError(t, err)
	worlds[key] = &place{World: w, events: w.Watch(life), life: life}
	return worlds[key]
}

// On a Proxmox node a container behaves as on plain LXC.
func TestLifecycleOnProxmox(t *testing.T) {
	w := proxmox(t)
	for _, table := range [][]scenario{outputs, failures, signals, refusals, execs, terminals, resources} {
		for _, sc := range table {
			t.Run(sc.name, func(t *testing.T) { sc.test(t, w, harness.LXC()) })
		}
	}
}
