package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// need is something that not every machine has, and by which name a row that
// has to go without it says so.
type need struct {
	name string
	has  func() bool
}

var (
	cgroupV1 = need{"cgroup v1", func() bool { return !exists("/sys/fs/cgroup/cgroup.controllers") }}
	cgroupV2 = need{"cgroup v2", func() bool { return exists("/sys/fs/cgroup/cgroup.controllers") }}
	apparmor = need{"AppArmor", func() bool { return contains("/sys/module/apparmor/parameters/enabled", "Y") }}
	selinux  = need{"SELinux", func() bool { return exists("/sys/fs/selinux/enforce") }}
	resctrl  = need{"resctrl", func() bool { return exists("/sys/fs/resctrl/info") }}
	// crunProfile is what Debian 13 confines crun by, to let it make user namespaces.
	crunProfile = need{"an AppArmor profile for crun", func() bool { return apparmor.has() && exists("/etc/apparmor.d/crun") }}
	twoNodes    = need{"two NUMA nodes", func() bool { return exists("/sys/devices/system/node/node1") }}
	twoCPUs     = need{"two CPUs", func() bool { return exists("/sys/devices/system/cpu/cpu1") }}
	swap        = need{"accounting of swap", func() bool {
		return cgroupV2.has() || exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}}
	bfq  = need{"a disk 7:1 that BFQ schedules", func() bool { return contains("/sys/block/loop1/queue/scheduler", "[bfq]") }}
	ia32 = need{"32-bit system calls", func() bool { return exec.Command(harness.Observer(), "call32", "20").Run() == nil }}
)

// controller is a cgroup controller in v1's hierarchy of that name, or in v2.
func controller(v1, v2 string) need {
	return need{"the cgroup controller " + v1, func() bool {
		if cgroupV2.has() {
			return contains("/sys/fs/cgroup/cgroup.controllers", v2)
		}
		return exists(filepath.Join("/sys/fs/cgroup", v1, "tasks"))
	}}
}

// controllerHas is a file of a group that a kernel may have been built
// without: below the hierarchies of v1, or in v2. Not every file is in a root.
func controllerHas(v1 string, v2 ...string) need {
	return need{"the cgroup file " + filepath.Base(v1), func() bool {
		controller, file := filepath.Split(v1)
		if cgroupV2.has() {
			if len(v2) == 0 {
				return false
			}
			controller, file = "", v2[0]
		}
		dir := filepath.Join("/sys/fs/cgroup", controller, harness.Token()+"-probe")
		if os.Mkdir(dir, 0o755) != nil {
			return false
		}
		defer os.Remove(dir)
		return exists(filepath.Join(dir, file))
	}}
}

// device is hardware, as the path by which it would be seen.
func device(path string) need { return need{path, func() bool { return exists(path) }} }

// capability is one that root has not everywhere.
func capability(name string, bit uint) need {
	return need{name, func() bool {
		data, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
				set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
				return err == nil && set>>bit&1 == 1
			}
		}
		return false
	}}
}

// kernel is a version of Linux.
func kernel(major, minor int) need {
	return need{fmt.Sprintf("Linux %d.%d", major, minor), func() bool {
		var u unix.Utsname
		if unix.Uname(&u) != nil {
			return false
		}
		return !older(unix.ByteSliceToString(u.Release[:]), fmt.Sprintf("%d.%d", major, minor))
	}}
}

// lacks names the first thing that is not here.
func lacks(needs []need) string {
	for _, n := range needs {
		if !n.has() {
			return n.name
		}
	}
	return ""
}

// crunVersion is what the crun of this machine says it is.
var crunVersion = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("crun", "--version").Output()
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	version, ok := strings.CutPrefix(string(line), "crun version ")
	if !ok {
		return "", fmt.Errorf("crun --version says %q", line)
	}
	return version, nil
})

func crunKnows(t *testing.T, since string) bool {
	t.Helper()
	if since == "" {
		return true
	}
	version, err := crunVersion()
	require.NoError(t, err)
	return !older(version, since)
}

// flaw is what crun was seen to do instead of what a row wants: which it is
// left out for.
type flaw struct{ what, seen string }

// upTo is the newest version of crun that was seen to have the flaw: a newer
// one is held to the row.
func upTo(version, what string) flaw { return flaw{what, version} }

// byDesign is what crun, or the way that it is used here, does in any version.
func byDesign(what string) flaw { return flaw{what: what} }

// on is a flaw on machines that have something.
func (f flaw) on(n need) flaw {
	if n.has() {
		return f
	}
	return flaw{}
}

// skip skips a test for a crun that has the flaw.
func (f flaw) skip(t *testing.T, rt harness.Runtime) {
	t.Helper()
	if rt.Backend != "crun" || f.what == "" {
		return
	}
	version, err := crunVersion()
	require.NoError(t, err)
	if f.seen == "" || !older(f.seen, version) {
		t.Skipf("crun %s %s", version, f.what)
	}
}

// older compares dotted numbers; what follows them is left out.
func older(a, b string) bool { return slices.Compare(numbers(a), numbers(b)) < 0 }

func numbers(version string) (all []int) {
	if end := strings.IndexFunc(version, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		version = version[:end]
	}
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part) // digits
		all = append(all, n)
	}
	return all
}

func TestOlder(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{{"1.8.1", "1.8.1", false}, {"1.8.1", "1.12", true}, {"1.21-dirty", "1.9", false}, {"6.18.44-x", "6.15", false}, {"1.8", "1.8.1", true}, {"1.21", "1.21-dirty", false}, {"1.21", "1.21.1", true}} {
		if older(tc.a, tc.b) != tc.want {
			t.Errorf("%s < %s: want %v", tc.a, tc.b, tc.want)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func contains(path, word string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for _, f := range strings.Fields(string(data)) {
		if f == word {
			return true
		}
	}
	return false
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

func words(s string) []string { return strings.Fields(s) }

func itoa(n int) string { return strconv.Itoa(n) }

func ptr[T any](v T) *T { return &v }
