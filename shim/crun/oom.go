package crun

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// memoryCgroup returns the directory of a process in the memory hierarchy of
// cgroup v1, "" if there is none.
//
// The kernel notifies of an OOM with the same signal as of the removal of the
// cgroup, so that a notification needs a second look, see hadOOM. On cgroup2
// there is no such doubt.
func memoryCgroup(root string, pid uint32) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		// hierarchy:controllers:path, see cgroups(7)
		field := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(field) == 3 && slices.Contains(strings.Split(field[1], ","), "memory") {
			dir := filepath.Join(root, "memory", field[2])
			if exists(filepath.Join(dir, "memory.oom_control")) {
				return dir
			}
		}
	}
	return ""
}

// hadOOM tells whether a process was killed, or waits, for lack of memory in a
// cgroup or one below: the counters are not summed up by the kernel.
func hadOOM(dir string) bool {
	found := false
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // the cgroup has just been removed
		}
		if d.Name() != "memory.oom_control" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if (name == "oom_kill" || name == "under_oom") && value != "0" {
				found = true
				return filepath.SkipAll
			}
		}
		return nil
	})
	return found
}
