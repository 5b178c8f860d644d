package cgroup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup file system.
type hierarchy struct {
	mount string
	v2    bool
	// names are the controllers of a v1 hierarchy in the kernel's order, or
	// name=systemd and the like for a hierarchy without any.
	names []string
}

// host is how a machine has its control groups.
type host struct {
	v1 []hierarchy
	v2 *hierarchy // nil if there is none
}

// unified says whether the controllers are those of cgroup v2. A cgroup2
// beside v1 is not used: what it does, v1 does too, and every process that
// joins one of its groups waits some milliseconds for the kernel.
func (h *host) unified() bool { return len(h.v1) == 0 }

// used returns the hierarchies that a container's group is made in.
func (h *host) used() []hierarchy {
	if h.unified() {
		return []hierarchy{*h.v2}
	}
	return h.v1
}

// all returns every hierarchy.
func (h *host) all() []hierarchy {
	if h.unified() || h.v2 == nil {
		return h.used()
	}
	return append(slices.Clone(h.v1), *h.v2)
}

// thisHost is read once: hierarchies are mounted when a machine boots.
var thisHost = sync.OnceValues(func() (*host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readHost(f, visible)
})

// visible says whether a mount can be reached: nothing is mounted over it.
func visible(m *mountinfo.Info) bool {
	var st unix.Stat_t
	if err := unix.Stat(m.Mountpoint, &st); err != nil {
		return false
	}
	return unix.Mkdev(uint32(m.Major), uint32(m.Minor)) == st.Dev
}

// readHost reads mountinfo (proc_pid_mountinfo(5)).
func readHost(r io.Reader, visible func(*mountinfo.Info) bool) (*host, error) {
	mounts, err := mountinfo.GetMountsFromReader(r, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("cgroup mounts: %w", err)
	}
	h := &host{}
	seen := map[[2]int]bool{}
	for _, m := range mounts {
		device := [2]int{m.Major, m.Minor}
		// What is mounted from below the root is some container's view.
		if m.Root != "/" || seen[device] || !visible(m) {
			continue
		}
		seen[device] = true
		if m.FSType == "cgroup2" {
			h.v2 = &hierarchy{mount: m.Mountpoint, v2: true}
		} else {
			h.v1 = append(h.v1, hierarchy{mount: m.Mountpoint, names: names(m.VFSOptions)})
		}
	}
	if len(h.v1) == 0 && h.v2 == nil {
		return nil, fmt.Errorf("no cgroup file system is mounted: %w", errdefs.ErrFailedPrecondition)
	}
	return h, nil
}

// names picks the controllers, or the name, from the options of a superblock.
func names(options string) []string {
	var out []string
	for o := range strings.SplitSeq(options, ",") {
		if !slices.Contains([]string{"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}, o) &&
			!strings.HasPrefix(o, "release_agent=") {
			out = append(out, o)
		}
	}
	return out
}

// groupOf returns the directories of the groups that a process is in, in the
// words of /proc/PID/cgroup.
func (h *host) groupOf(r io.Reader) ([]place, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var places []place
	for line := range strings.Lines(string(text)) {
		// hierarchy-ID:controllers:path (cgroups(7))
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q: not three fields", line)
		}
		for _, v := range h.all() {
			if v.v2 && f[0] == "0" || !v.v2 && f[1] == strings.Join(v.names, ",") {
				places = append(places, place{v, filepath.Join(v.mount, f[2])})
			}
		}
	}
	return places, nil
}
