package lxc

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// writeUserSysctls lets the helper write the sysctls of its user namespace:
// they are what a process in it sees in a procfs, and may be written by one
// that has CAP_SYS_RESOURCE there (set_permissions in kernel/ucount.c).
func (c *creation) writeUserSysctls(ctx context.Context) error {
	values := c.plan.UserSysctl
	if len(values) == 0 {
		return nil
	}
	procfs, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer procfs.Close()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := c.conn.Run(ctx, []initop.Op{initop.WriteAt(0, "sys/"+key, values[key])}, procfs); err != nil {
			return fmt.Errorf("linux.sysctl[%q]: %w", key, err)
		}
	}
	return nil
}
