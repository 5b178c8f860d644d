package pve

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/base"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// Config is a container that becomes a CT.
type Config struct {
	About
	Settings
	StateDir  string   // the container's own directory
	Base      base.Dir // LXC's first root
	Helper    string   // path of nexcage-init
	Rootfs    string   // where the image is mounted on the host
	Hostname  string
	Resources *specs.LinuxResources
	Lines     []lxcconf.Line // that follow from the spec
	Cgroup    string         // path of the control group; "" is Proxmox's own
	Halt      string         // signal that asks the container to end, as LXC names it
	IDMap     oci.IDMap      // of its user namespace; the zero value without one

	volume string // the property rootfs, if it is a volume
}

// Settings are what an operator, or an annotation that he allows, says about a CT.
type Settings struct {
	VMID     int // 0 for the next one of Range
	Range    Range
	Tags     []string
	OnBoot   bool
	Features string
	Nets     []Net // that Proxmox makes, in place of the network of the spec
	Root     Root
}

// include is the file of LXC's keys.
func (c *Config) include(node string, vmid int) string {
	return filepath.Join(c.StateDir, IncludeName(node, vmid))
}

// conf is the CT as the UI shows it.
func (c *Config) conf(n *Node, vmid int) ([]byte, error) {
	rootfs, err := c.rootfs()
	if err != nil {
		return nil, err
	}
	props := []Prop{
		{"arch", arch()},
		{"cmode", "shell"}, // what the UI's console opens
		{"hostname", hostname(c.name())},
		memoryProp(c.Resources),
		{"onboot", bit(c.OnBoot)},
		{"ostype", "unmanaged"},
		{"rootfs", rootfs},
		swapProp(c.Resources),
		{"tags", tags(append([]string{Tag, "ns-" + c.Namespace}, c.Tags...)...)},
	}
	props = append(props, cpu(c.Resources)...)
	if c.Features != "" {
		props = append(props, Prop{"features", c.Features})
	}
	for _, i := range c.Nets {
		props = append(props, i.prop())
	}
	if !c.IDMap.IsZero() {
		props = append(props, Prop{"unprivileged", "1"})
	}
	slices.SortFunc(props, func(a, b Prop) int { return strings.Compare(a.Key, b.Key) }) // as Proxmox writes them
	conf := &Conf{
		Description: c.description(),
		Props:       props,
		Raw:         append(c.idmap(), Prop{"lxc.include", c.include(n.Name, vmid)}),
	}
	return conf.Marshal()
}

// idmap are the mappings of the user namespace. They are in the CT's own configuration:
// Proxmox, which would map 65536 ids from 100000 on otherwise, reads them to own
// what its tools make in the container (pct push, devices), and LXC does not stand
// that one file takes back those of another (seen with 5.0.2).
func (c *Config) idmap() (raw []Prop) {
	for _, l := range c.Lines {
		if l.Key == idmapKey {
			raw = append(raw, Prop{l.Key, l.Value})
		}
	}
	return raw
}

const idmapKey = "lxc.idmap"

// name is what the UI calls the CT: the host name, unless that is only the
// beginning of the id.
func (c *Config) name() string {
	if c.Hostname == "" || strings.HasPrefix(c.ID, c.Hostname) {
		return c.ID
	}
	return c.Hostname
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// rootfs is the property of that name.
func (c *Config) rootfs() (string, error) {
	if c.volume != "" {
		return c.volume, nil
	}
	return c.bindRootfs()
}

// bindRootfs is the property rootfs for a directory. Proxmox refuses symbolic
// links in it, and its syntax has no quoting.
func (c *Config) bindRootfs() (string, error) {
	path, err := filepath.EvalSymlinks(c.Rootfs)
	if err != nil {
		return "", err
	}
	if strings.Contains(path, ",") {
		return "", fmt.Errorf("root file system %q: a CT's can not have a comma in its path: %w", path, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// mib is the unit of Proxmox's memory and swap.
const mib = 1 << 20

func memoryProp(r *specs.LinuxResources) Prop {
	return Prop{"memory", strconv.FormatInt(memory(r), 10)}
}

func swapProp(r *specs.LinuxResources) Prop { return Prop{"swap", strconv.FormatInt(swap(r), 10)} }

// cpuLimit is the property of the limit of CPU time, in processors.
const cpuLimit = "cpulimit"

// memory in MiB: the limit, rounded up, or all there is. Proxmox takes 512 MiB
// if it is not said.
func memory(r *specs.LinuxResources) int64 {
	const least = 16 // that Proxmox accepts
	if r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		return max(least, ceilMiB(*r.Memory.Limit))
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil { // never with a good pointer
		return least
	}
	return max(least, int64(info.Totalram)*int64(info.Unit)/mib)
}

func ceilMiB(bytes int64) int64 { return (bytes-1)/mib + 1 }

// swap in MiB; OCI's is the limit of both together.
func swap(r *specs.LinuxResources) int64 {
	if r == nil || r.Memory == nil || r.Memory.Swap == nil || r.Memory.Limit == nil || *r.Memory.Limit <= 0 || *r.Memory.Swap <= *r.Memory.Limit {
		return 0
	}
	return ceilMiB(*r.Memory.Swap - *r.Memory.Limit)
}

// cpu shows the limits of CPU time, as far as Proxmox has a word for them. The
// exact ones are written to the control group.
func cpu(r *specs.LinuxResources) (props []Prop) {
	if r == nil || r.CPU == nil {
		return nil
	}
	if q, p := r.CPU.Quota, r.CPU.Period; q != nil && *q > 0 {
		period := 100000.0 // the kernel's
		if p != nil && *p > 0 {
			period = float64(*p)
		}
		const most = 8192
		limit := math.Min(most, math.Max(0.01, math.Round(float64(*q)/period*100)/100))
		props = append(props, Prop{cpuLimit, strconv.FormatFloat(limit, 'f', -1, 64)})
	}
	if s := r.CPU.Shares; s != nil && *s > 0 {
		props = append(props, Prop{"cpuunits", strconv.FormatUint(max(8, cgroup2.ConvertCPUSharesToCgroupV2Value(*s)), 10)})
	}
	return props
}

// lines are LXC's own keys, which come after those of Proxmox. They take back
// what would touch the image or limit what the spec allows; Proxmox's own hooks
// before the start and after the end stay.
func (c *Config) lines(n *Node, vmid int) ([]lxcconf.Line, error) {
	rootfs := filepath.Join(n.LXC, strconv.Itoa(vmid), "rootfs")
	mount, err := command(mountProgram, "--bind", string(c.Base), rootfs)
	if err != nil {
		return nil, err
	}
	wait, err := command(flockProgram, "-w", "5", "-E", "0", "-s", c.figures(), "/bin/true")
	if err != nil {
		return nil, err
	}
	var lines []lxcconf.Line
	for _, key := range cleared {
		lines = append(lines, lxcconf.Set(key, ""))
	}
	lines = append(lines,
		// In lxc-start's mount namespace, after Proxmox has mounted the image
		// there: LXC starts on the base, which covers it.
		lxcconf.Set("lxc.hook.pre-start", mount),
		// Until the shim has read the last figures of the control group.
		lxcconf.Set("lxc.hook.stop", wait),
		lxcconf.Set("lxc.signal.halt", c.Halt),
		// What confines the process is what the spec says.
		lxcconf.Set("lxc.apparmor.profile", "unconfined"),
		// With the feature nesting LXC would mount a procfs and a sysfs for
		// profiles to allow, on directories that it makes in the base.
		lxcconf.Set("lxc.apparmor.allow_nesting", "0"),
	)
	if c.Cgroup != "" {
		lines = append(lines, lxcconf.Set("lxc.cgroup.dir.container", c.Cgroup))
	}
	lines = append(append(lines, base.Lines(c.Helper)...), c.Lines...)
	lines = slices.DeleteFunc(lines, func(l lxcconf.Line) bool { return l.Key == idmapKey })
	if len(c.Nets) == 0 {
		return lines, nil
	}
	// The loopback device alone, which is in the lines of the spec.
	lines = slices.DeleteFunc(lines, func(l lxcconf.Line) bool { return strings.HasPrefix(l.Key, "lxc.net.") })
	for _, i := range c.Nets {
		lines = append(lines, i.lines()...)
	}
	return lines, nil
}

// cleared are the keys of Proxmox and of LXC's common.conf that are taken back.
var cleared = []string{
	"lxc.uts.name", // the name in the UI is not the container's, if the spec has none
	"lxc.hook.mount", "lxc.hook.autodev",
	"lxc.mount.entry", "lxc.mount.auto",
	"lxc.seccomp.profile",
	"lxc.cgroup.devices.allow", "lxc.cgroup.devices.deny",
	"lxc.cgroup2.devices.allow", "lxc.cgroup2.devices.deny",
}

// figures is the lock that LXC waits for at its end.
func (c *Config) figures() string { return filepath.Join(c.StateDir, "figures") }

// Programs of util-linux, which every Debian has.
const (
	mountProgram = "/bin/mount"
	flockProgram = "/usr/bin/flock"
)

// command is a hook: LXC hands it to sh with arguments of its own, which the
// comment drops.
func command(args ...string) (string, error) {
	for i, a := range args {
		if strings.ContainsAny(a, "'\n") {
			return "", fmt.Errorf("hook of LXC: %q can not be quoted: %w", a, errdefs.ErrInvalidArgument)
		}
		if i > 0 {
			args[i] = "'" + a + "'"
		}
	}
	return strings.Join(args, " ") + " #", nil
}

// Reserve takes a VMID and makes the CT's configuration. save is called before
// anybody can take it for a leftover.
func (n *Node) Reserve(ctx context.Context, client *Client, c *Config, save func(vmid int) error) error {
	if err := n.setupNets(ctx, client, c.Nets); err != nil {
		return err
	}
	if err := n.removeLeftover(ctx, c); err != nil {
		return err
	}
	vmid, l, err := n.reserve(ctx, c.VMID, c.Range, func(vmid int) ([]byte, error) { return c.conf(n, vmid) })
	if err != nil {
		return fmt.Errorf("create a CT on node %s: %w", n.Name, err)
	}
	defer l.release()
	if err := save(vmid); err != nil {
		return err
	}
	return n.mark(c.Namespace, c.ID, vmid)
}

// writeInclude writes the file of LXC's keys.
func (c *Config) writeInclude(n *Node, vmid int) error {
	lines, err := c.lines(n, vmid)
	if err != nil {
		return err
	}
	text, err := lxcconf.Marshal(lines)
	if err != nil {
		return err
	}
	return os.WriteFile(c.include(n.Name, vmid), text, 0o600)
}
