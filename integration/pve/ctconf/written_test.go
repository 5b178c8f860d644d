package ctconf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
)

// Proxmox of each version takes all that the shim writes for it, and writes it
// back as it is: nothing gets lost when an operator changes something.
func TestProxmoxKeepsWhatIsWritten(t *testing.T) {
	for version, file := range map[ctconf.Version]string{
		ctconf.PVE7: "ct-7.4.conf", ctconf.PVE8: "ct-8.4.conf", ctconf.PVE90: "ct-9.0.conf", ctconf.PVE91: "ct-9.1.conf",
	} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../../lxc/pve/testdata", file))
			require.NoError(t, err)
			c := ctconf.Parse(900000, string(text), version)
			assert.Empty(t, c.Warnings)
			assert.Equal(t, string(text), c.String())
		})
	}
}
