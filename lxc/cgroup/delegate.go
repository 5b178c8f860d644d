package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// delegateFile lists the files of a group that belong to whoever manages the
// groups below it (cgroups(7), Linux 4.15).
const delegateFile = "/sys/kernel/cgroup/delegate"

// delegated is what runtime-spec (Cgroup ownership) wants where there is no
// such list.
var delegated = []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}

// Delegate gives the group to a user of the host, who can then make groups
// below it. It does nothing on cgroup v1, where that is not safe.
func (g *Group) Delegate(uid uint32) error { return g.delegate(uid, delegateFile) }

func (g *Group) delegate(uid uint32, list string) error {
	if !g.unified {
		return nil
	}
	files := delegated
	if text, err := os.ReadFile(list); err == nil {
		files = strings.Fields(string(text))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, p := range g.places {
		if !p.v2 {
			continue
		}
		dir := filepath.Join(p.dir, g.inner)
		if err := os.Chown(dir, int(uid), -1); err != nil {
			return fmt.Errorf("delegate control group: %w", err)
		}
		for _, name := range files { // not every group has each
			if err := os.Chown(filepath.Join(dir, name), int(uid), -1); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("delegate control group: %w", err)
			}
		}
	}
	return nil
}
