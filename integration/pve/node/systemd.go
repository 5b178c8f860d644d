package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// unitFile is Proxmox's unit of a container.
const unitFile = `[Unit]
Description=PVE LXC Container: %i
DefaultDependencies=No
After=lxc.service
Documentation=man:lxc-start man:lxc man:pct

[Service]
Type=simple
Delegate=yes
KillMode=mixed
TimeoutStopSec=120s
ExecStart=/usr/bin/lxc-start -F -n %i
ExecStop=/usr/share/lxc/pve-container-stop-wrapper %i
Environment=LANG=C.UTF-8
StandardOutput=null
StandardError=file:/run/pve/ct-%i.stderr
`

const unitPath = "/run/systemd/system/pve-container@.service"

// useSystemd gives systemd the unit, and starts those that a node has from its
// boot on.
func useSystemd(ctx context.Context, binary string) error {
	if err := os.MkdirAll(filepath.Dir(unitPath), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(unitPath, []byte(unitFile), 0o644); err != nil {
		return err
	}
	if err := os.Symlink(binary, "/usr/share/lxc/pve-container-stop-wrapper"); err != nil {
		return err
	}
	for _, args := range [][]string{{"daemon-reload"}, {"start", "lxc-monitord.service"}} {
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
