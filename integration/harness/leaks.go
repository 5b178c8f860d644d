package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
)

// Snapshot is everything of a session that a container could leave behind,
// one line for each thing.
type Snapshot map[string]bool

// Take looks at processes, mounts, namespaces, cgroups, sockets and the files
// of the runtimes.
func Take(w *World) (Snapshot, error) {
	s := Snapshot{}
	for _, look := range []func(*World) ([]string, error){processes, mounts, cgroups, sockets, files} {
		found, err := look(w)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			s[f] = true
		}
	}
	return s, nil
}

// settle is how long Left waits for shims to end: they do so by themselves,
// a little after the last task's deletion was answered.
const settle = 10 * time.Second

// Left returns what is there now and was not before.
func Left(w *World, before Snapshot) ([]string, error) {
	deadline := time.Now().Add(settle * time.Duration(Slowness()))
	for {
		now, err := Take(w)
		if err != nil {
			return nil, err
		}
		var left []string
		for thing := range now {
			if !before[thing] {
				left = append(left, thing)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			slices.Sort(left)
			return left, nil
		}
		time.Sleep(20 * time.Millisecond * time.Duration(Slowness())) // strangers' processes: nobody tells when all are gone
	}
}

// processes are all of the session's pid namespace but the daemon (and, where a
// guest is the session, the guest's own), and the
// network namespaces that they are in or hold open.
func processes(w *World) ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // ended
		}
		name, rest := parseStat(stat)
		if len(rest) < 20 || machines(dir, rest) {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		argv := strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
		if len(argv) > 160 {
			argv = argv[:160] + "…"
		}
		if pid != w.DaemonPid() { // which may be another one than before
			found = append(found, fmt.Sprintf("process %d (%s) %s: %s", pid, name, running(rest[0]), argv))
		}
		found = append(found, netns(dir)...)
	}
	return found, nil
}

// running hides that a live process sleeps now and then.
func running(state string) string {
	if state == "Z" {
		return "zombie"
	}
	return "alive"
}

// parseStat splits /proc/PID/stat, see proc(5): the name may hold anything.
func parseStat(stat []byte) (name string, rest []string) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", nil
	}
	return string(stat[open+1 : end]), strings.Fields(string(stat[end+1:]))
}

// netns lists network namespaces: the process's own, and open ones.
func netns(dir string) []string {
	var found []string
	if ns, err := os.Readlink(dir + "/ns/net"); err == nil {
		found = append(found, "network namespace "+ns)
	}
	fds, _ := os.ReadDir(dir + "/fd")
	for _, fd := range fds {
		if ns, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil && strings.HasPrefix(ns, "net:[") {
			found = append(found, "network namespace "+ns)
		}
	}
	return found
}

func mounts(w *World) ([]string, error) {
	var found []string
	for _, pid := range []int{os.Getpid(), w.DaemonPid()} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			return nil, err
		}
		infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			found = append(found, fmt.Sprintf("mount %s (%s)", i.Mountpoint, i.FSType))
		}
	}
	return found, nil
}

func cgroups(w *World) ([]string, error) {
	dirs, err := Cgroups(Token())
	if err != nil {
		return nil, err
	}
	var found []string
	if w.Node != nil {
		if found, err = guestCgroups(); err != nil {
			return nil, err
		}
	}
	for _, dir := range dirs {
		// On Proxmox LXC manages the groups, and makes one that it never
		// removes.
		pivot := w.Node != nil && filepath.Base(dir) == "lxc.pivot"
		if filepath.Base(dir) != w.Namespace && !pivot {
			found = append(found, "cgroup "+dir)
		}
	}
	return found, nil
}

// guestCgroups are those of a node's CTs, which know no session: the node is
// the session's.
func guestCgroups() ([]string, error) {
	points, err := Hierarchies()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, point := range points {
		for _, name := range []string{"lxc", "lxc.monitor"} {
			groups, err := filepath.Glob(filepath.Join(point, name, "*", "cgroup.procs"))
			if err != nil {
				return nil, err
			}
			for _, g := range groups {
				found = append(found, "cgroup "+filepath.Dir(g))
			}
		}
	}
	return found, nil
}

// sockets are the named unix sockets of the session's network namespace.
func sockets(*World) ([]string, error) {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var found []string
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 8 && f[0] != "Num" {
			found = append(found, "socket "+f[7])
		}
	}
	return found, nil
}

// files are those below the places where runtimes keep state.
func files(w *World) ([]string, error) {
	roots := []string{"/run", "/var/lib/lxc", filepath.Join(w.Dir, "state"), filepath.Join(w.Dir, "s"), filepath.Join(w.Dir, "tmp"), w.FIFODir()}
	parents := w.parents()
	// Later cruns keep the seccomp profiles that they have compiled.
	crunCache := filepath.Join("/run/containerd/runc", w.Namespace, ".cache")
	var found []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() && (isHostEntry(path) || path == crunCache) {
				return fs.SkipDir
			}
			if slices.Contains(parents, path) {
				return nil
			}
			found = append(found, "file "+path)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// parents are directories that are made once for all containers, and stay.
func (w *World) parents() []string {
	return []string{
		"/run/containerd", "/run/containerd/fifo", "/run/containerd/s", "/run/containerd/runc",
		"/run/containerd/runc/" + w.Namespace, "/run/crun", "/run/runc",
		"/run/nexcage", "/run/nexcage/" + w.Namespace, "/run/nexcage/.engines", "/run/nexcage/.ids", "/run/nexcage/.engines/usr-bin-crun.json", "/run/nexcage/.lxc", "/run/nexcage/.lxc/" + w.Namespace, "/run/nexcage/crun",
		"/run/nexcage/crun/" + w.Namespace, "/run/lxc", "/run/lxc/lock",
		"/run/lxc/lock/run", "/run/lxc/lock/run/nexcage", "/run/lxc/lock/run/nexcage/.lxc", "/run/lxc/lock/run/nexcage/.lxc/" + w.Namespace,
		"/run/nexcage/.pve", "/run/nexcage/.pve/last-vmid", "/run/nexcage/.pve/version", "/run/nexcage/.pve/.unwritten", "/run/nexcage/.pve/" + w.Namespace,
		"/run/lxc/lock/var", "/run/lxc/lock/var/lib", "/run/lxc/lock/var/lib/lxc",
		"/run/lxc/run", "/run/lxc/run/nexcage", "/run/lxc/run/nexcage/.lxc", "/run/lxc/run/nexcage/.lxc/" + w.Namespace, // of lxc-monitord's FIFO
		w.FIFODir(), filepath.Join(w.Dir, "s"),
		filepath.Join(w.Dir, "state", "io.containerd.runtime.v2.task", w.Namespace),
	}
}

// isHostEntry reports whether path is an entry of /run that is the host's.
func isHostEntry(path string) bool {
	return filepath.Dir(path) == "/run" && !strings.HasPrefix(filepath.Base(path), "nexcage") && !ours[filepath.Base(path)]
}

// FIFODir is where clients of this world make the FIFOs of their containers.
func (w *World) FIFODir() string { return filepath.Join(w.Dir, "fifo") }
