package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

var vmidOnly = []string{"vmid"}

var views = []*command{
	{name: "list", check: list},
	{name: "status", args: vmidOnly, opts: map[string]kind{"verbose": boolean}, check: status},
	{name: "config", args: vmidOnly, opts: map[string]kind{"current": boolean, "snapshot": text}, check: config},
	{name: "pending", args: vmidOnly, check: pending},
	{name: "listsnapshot", args: vmidOnly, check: listSnapshots},
	{name: "cpusets", check: cpusets},
}

func list(*call) error {
	guests, err := host.Guests()
	if err != nil {
		return err
	}
	header := false
	for _, id := range slices.Sorted(maps.Keys(guests)) {
		if g := guests[id]; g.Type != "lxc" || g.Node != host.Node() {
			continue
		}
		c, err := host.Load(id)
		if err != nil {
			continue // just removed
		}
		if !header {
			fmt.Printf("%-10s %-10s %-12s %-20s\n", "VMID", "Status", "Lock", "Name")
			header = true
		}
		fmt.Printf("%-10d %-10s %-12s %-20s\n", id, state(id), c.Get("lock", ""), name(id, c))
	}
	return nil
}

func state(vmid int) string {
	if lxc.Running(vmid) {
		return "running"
	}
	return "stopped"
}

func name(vmid int, c *ctconf.Conf) string { return c.Get("hostname", fmt.Sprintf("CT%d", vmid)) }

func status(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	if !p.on("verbose") {
		fmt.Println("status:", state(p.vmid))
		return nil
	}
	figures := Figures(p.vmid, c)
	for _, k := range slices.Sorted(maps.Keys(figures)) {
		fmt.Printf("%s: %s\n", k, figures[k])
	}
	return nil
}

// Figures are what `pct status --verbose` shows.
func Figures(vmid int, c *ctconf.Conf) map[string]string {
	memory, _ := strconv.ParseInt(c.Get("memory", "512"), 10, 64)
	swap, _ := strconv.ParseInt(c.Get("swap", "0"), 10, 64)
	f := map[string]string{
		"cpus": lxc.CPUs(c), "disk": "0", "diskread": "0", "diskwrite": "0", "maxdisk": maxDisk(c),
		"maxmem": fmt.Sprint(memory << 20), "maxswap": fmt.Sprint(swap << 20), "mem": "0", "name": name(vmid, c),
		"netin": "0", "netout": "0", "status": state(vmid), "swap": "0", "type": "lxc", "uptime": "0", "vmid": strconv.Itoa(vmid),
	}
	for _, k := range []string{"tags", "lock"} {
		if v := c.Get(k, ""); v != "" {
			f[k] = v
		}
	}
	if c.On("template") {
		f["template"] = "1"
	}
	pid, err := lxc.InitPid(vmid)
	if err != nil {
		return f
	}
	f["pid"] = strconv.Itoa(pid)
	var st unix.Statfs_t
	if unix.Statfs(fmt.Sprintf("/proc/%d/root", pid), &st) == nil {
		f["disk"] = fmt.Sprint((st.Blocks - st.Bfree) * uint64(st.Bsize))
		f["maxdisk"] = fmt.Sprint(st.Blocks * uint64(st.Bsize))
	}
	file := "memory.current"
	if !lxc.Unified() {
		file = "memory.usage_in_bytes"
	}
	if used, err := lxc.Read(vmid, "memory", file); err == nil {
		f["mem"] = fmt.Sprint(used)
	}
	if info, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		f["uptime"] = fmt.Sprint(int(time.Since(info.ModTime()).Seconds()))
	}
	return f
}

// maxDisk is the size that the configuration gives; 4 GiB if none.
func maxDisk(c *ctconf.Conf) string {
	p, err := ctconf.ParsePairs(c.Get("rootfs", ""), "volume")
	if err == nil && p["size"] != "" {
		if n, err := parseSize(p["size"]); err == nil {
			return fmt.Sprint(n)
		}
	}
	return fmt.Sprint(4 << 30)
}

// parseSize reads sizes such as 8G, in bytes.
func parseSize(v string) (int64, error) {
	unit := int64(1)
	if i := strings.IndexAny(v, "KMGT"); i == len(v)-1 && i > 0 {
		unit = int64(1) << (10 * (strings.IndexByte("KMGT", v[i]) + 1))
		v = v[:i]
	}
	n, err := strconv.ParseFloat(v, 64)
	return int64(n * float64(unit)), err
}

// show is a property as `pct config` prints it.
func show(prefix string, s *ctconf.Section) {
	all := maps.Clone(s.Props)
	if s.Description != "" {
		all["description"] = ctconf.Encode(s.Description)
	}
	if len(s.Env) > 0 {
		all["env"] = strings.Join(s.Env, "\x00")
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Printf("%s%s: %s\n", prefix, k, all[k])
	}
	if prefix != "" {
		return
	}
	for _, r := range s.Raw {
		fmt.Printf("%s: %s\n", r.Key, r.Value)
	}
}

func config(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	if snap := p.opts["snapshot"]; snap != "" {
		s, ok := c.Snapshots[snap]
		if !ok {
			return host.Dief("snapshot '%s' does not exist", snap)
		}
		show("", s)
		return nil
	}
	if !p.on("current") {
		lxc.Merge(c)
	}
	show("", &c.Section)
	return nil
}

func pending(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	deleted := ctconf.SplitList(c.Pending.Get("delete", ""))
	keys := slices.Collect(maps.Keys(c.Props))
	for k := range c.Pending.Props {
		keys = append(keys, k)
	}
	keys = append(keys, "description")
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		if k == "delete" {
			continue
		}
		if k == "description" {
			showPending("cur", k, ctconf.Encode(c.Description))
			showPending("new", k, ctconf.Encode(c.Pending.Description))
			continue
		}
		showPending("cur", k, c.Props[k])
		showPending("new", k, c.Pending.Props[k])
		if slices.Contains(deleted, k) {
			fmt.Printf("del %s: %s\n", k, c.Props[k])
		}
	}
	return nil
}

func showPending(what, key, value string) {
	if value != "" {
		fmt.Printf("%s %s: %s\n", what, key, value)
	}
}

func listSnapshots(p *call) error {
	c, err := host.Load(p.vmid)
	if err != nil {
		return err
	}
	for i, name := range slices.Sorted(maps.Keys(c.Snapshots)) {
		at, _ := strconv.ParseInt(c.Snapshots[name].Get("snaptime", "0"), 10, 64)
		fmt.Printf("%s`-> %-22s %-28s %s\n", strings.Repeat(" ", i), name, time.Unix(at, 0).UTC().Format(time.DateTime), "no-description")
	}
	fmt.Printf("%s`-> %-22s %-28s %s\n", strings.Repeat(" ", len(c.Snapshots)), "current", "", "You are here!")
	return nil
}

// cpusets shows the CPUs of each running container.
func cpusets(*call) error {
	guests, err := host.Guests()
	if err != nil {
		return err
	}
	var lines []string
	for _, id := range slices.Sorted(maps.Keys(guests)) {
		if guests[id].Type != "lxc" || !lxc.Running(id) {
			continue
		}
		lines = append(lines, fmt.Sprintf("%d:  %s", id, cpus(id)))
	}
	if len(lines) == 0 {
		fmt.Println("no running containers")
		return nil
	}
	width := 0
	for _, l := range lines {
		width = max(width, len(l))
	}
	rule := strings.Repeat("-", width)
	fmt.Println(rule + "\n" + strings.Join(lines, "\n") + "\n" + rule)
	return nil
}

// cpus are the CPUs that a container may use, as a list.
func cpus(vmid int) string {
	group, err := lxc.CgroupPath(vmid, "cpuset")
	if err != nil {
		return ""
	}
	for _, path := range []string{filepath.Join("/sys/fs/cgroup/cpuset", group, "cpuset.cpus"), filepath.Join("/sys/fs/cgroup", group, "cpuset.cpus.effective")} {
		if data, err := os.ReadFile(path); err == nil {
			return expand(strings.TrimSpace(string(data)))
		}
	}
	return ""
}

// expand writes "0-2,5" as "0 1 2 5".
func expand(list string) string {
	var all []string
	for _, part := range strings.Split(list, ",") {
		low, high, ok := strings.Cut(part, "-")
		if !ok {
			high = low
		}
		a, _ := strconv.Atoi(low)
		b, _ := strconv.Atoi(high)
		for ; a <= b; a++ {
			all = append(all, strconv.Itoa(a))
		}
	}
	return strings.Join(all, " ")
}
