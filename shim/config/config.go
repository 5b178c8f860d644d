// Package config is the shim's configuration: the file, what the runtime
// options put in its place, the defaults, and what values are allowed.
//
// It is for the task service, which reads it at each Create, and for package
// route. It decides nothing and looks up no program. Every key is described
// in docs/configuration.md.
package config

import (
	"path/filepath"

	"github.com/containerd/log"
)

// DefaultPath is the file that is read unless the runtime options name
// another one. Without it the defaults hold.
const DefaultPath = "/etc/nexcage/config.toml"

// The backends.
const (
	BackendLXC  = "lxc"
	BackendCrun = "crun"
)

// The kinds of host.
const (
	HostAuto   = "auto"
	HostNative = "native"
	HostPVE    = "pve"
)

// Where the exit status of an LXC container comes from.
const (
	ExitStatusAuto    = "auto"    // pidfd where the kernel can, monitor elsewhere
	ExitStatusPIDFD   = "pidfd"   // the kernel, from Linux 6.15 on
	ExitStatusMonitor = "monitor" // lxc-monitord
)

// What user namespace an LXC container gets whose spec has none.
const (
	UserNSSpec = "spec" // none
	UserNSAuto = "auto" // one of its own
)

// Whose ids a user namespace of its own has.
const (
	UserNSRangeContainer = "container" // nobody else's
	UserNSRangeShared    = "shared"    // those of all such containers
)

// What happens to a container that can not have one because of a file system.
const (
	UserNSFallbackError = "error"
	UserNSFallbackPlain = "plain" // it gets none, with a warning
)

// Root file systems of containers on Proxmox.
const (
	RootfsSnapshot = "snapshot" // containerd's
	RootfsVolume   = "volume"   // on a storage of Proxmox
)

// Annotations of the shim. Each is a privilege: a container may carry it only
// if lxc.allowed_annotations lists it.
const (
	AnnotationPrefix  = "io.nexcage."
	AnnotationBackend = AnnotationPrefix + "backend"

	// Of containers on Proxmox.
	AnnotationVMID        = AnnotationPrefix + "vmid"
	AnnotationPVEPrefix   = AnnotationPrefix + "pve."
	AnnotationPVETags     = AnnotationPVEPrefix + "tags"
	AnnotationPVEFeatures = AnnotationPVEPrefix + "features"
	AnnotationPVEOnBoot   = AnnotationPVEPrefix + "onboot"
	AnnotationPVEStorage  = AnnotationPVEPrefix + "storage"
	AnnotationPVESize     = AnnotationPVEPrefix + "size"
	AnnotationRootfs      = AnnotationPrefix + "rootfs"
	AnnotationPVENet      = AnnotationPVEPrefix + "net" // and a number, up to MaxPVENets
)

// Config is the whole configuration. What Load, FromOptions and Default
// return is complete and valid: paths are absolute and clean, expressions
// compile.
type Config struct {
	StateDir string  `toml:"state_dir"` // state of the containers, lost at reboot
	Routing  Routing `toml:"routing"`
	LXC      LXC     `toml:"lxc"`
	Crun     Crun    `toml:"crun"`
	Log      Log     `toml:"log"`
}

// Routing says which backend a container gets.
type Routing struct {
	DefaultBackend string `toml:"default_backend"` // when no rule matches
	Fallback       string `toml:"fallback"`        // in place of lxc where there is none; "" is an error
	Rules          []Rule `toml:"rules"`           // the first match counts
}

// Rule sends the containers that match all of its conditions to a backend. A
// condition is an RE2 expression, which may match anywhere in the value; ""
// is no condition.
type Rule struct {
	Namespace           string `toml:"namespace"`
	ID                  string `toml:"id"`
	Image               string `toml:"image"`
	CRIContainerName    string `toml:"cri_container_name"`
	CRISandboxName      string `toml:"cri_sandbox_name"`
	CRISandboxNamespace string `toml:"cri_sandbox_namespace"`
	NerdctlName         string `toml:"nerdctl_name"`
	Backend             string `toml:"backend"`
}

// The keys of a rule's conditions.
const (
	KeyNamespace           = "namespace"
	KeyID                  = "id"
	KeyImage               = "image"
	KeyCRIContainerName    = "cri_container_name"
	KeyCRISandboxName      = "cri_sandbox_name"
	KeyCRISandboxNamespace = "cri_sandbox_namespace"
	KeyNerdctlName         = "nerdctl_name"
)

// Condition is one condition of a rule.
type Condition struct{ Key, Pattern string }

// Conditions are those that the rule has.
func (r *Rule) Conditions() []Condition {
	var given []Condition
	for _, c := range []Condition{
		{KeyNamespace, r.Namespace},
		{KeyID, r.ID},
		{KeyImage, r.Image},
		{KeyCRIContainerName, r.CRIContainerName},
		{KeyCRISandboxName, r.CRISandboxName},
		{KeyCRISandboxNamespace, r.CRISandboxNamespace},
		{KeyNerdctlName, r.NerdctlName},
	} {
		if c.Pattern != "" {
			given = append(given, c)
		}
	}
	return given
}

// LXC configures the LXC backend.
type LXC struct {
	Host               string   `toml:"host"`
	Helper             string   `toml:"helper"` // "" is searched: FindHelper
	AllowedAnnotations []string `toml:"allowed_annotations"`
	UserNS             string   `toml:"userns"`          // UserNSSpec, …
	UserNSUser         string   `toml:"userns_user"`     // whose subordinate ids they are
	UserNSRange        string   `toml:"userns_range"`    // UserNSRangeContainer, …
	UserNSSize         uint32   `toml:"userns_size"`     // ids
	UserNSFallback     string   `toml:"userns_fallback"` // UserNSFallbackError, …
	Native             Native   `toml:"native"`
	PVE                PVE      `toml:"pve"`
}

// Native configures plain LXC.
type Native struct {
	LXCStart string `toml:"lxc_start"` // a path, or a name for $PATH
	LXCPath  string `toml:"lxc_path"`  // has a directory for each namespace
	// ExitStatus is where exit statuses come from: ExitStatusAuto, …
	ExitStatus string `toml:"exit_status"`
}

// PVE configures containers that are CTs of a Proxmox VE node.
type PVE struct {
	Pct      string   `toml:"pct"` // "" is searched in $PATH and /usr/sbin
	VMIDMin  int      `toml:"vmid_min"`
	VMIDMax  int      `toml:"vmid_max"`
	Tags     []string `toml:"tags"`     // besides nexcage and ns-NAMESPACE
	Features string   `toml:"features"` // of each CT, as pct has it
	OnBoot   bool     `toml:"onboot"`
	Bridge   string   `toml:"bridge"` // of an interface that names none
	// Nets are the interfaces of a container that has a new network namespace,
	// as pct has net0, net1, …
	Nets       []string `toml:"nets"`
	ExitStatus string   `toml:"exit_status"` // as in Native

	Rootfs    string `toml:"rootfs"`  // RootfsSnapshot, …
	Storage   string `toml:"storage"` // of volumes; required for them
	Size      int    `toml:"size"`    // of volumes, in GiB
	VolumeDir string `toml:"volume_dir"`
	// TemplateMaxAge is the time without use after which gc removes a template, as time.ParseDuration
	// has it; "" is never.
	TemplateMaxAge string `toml:"template_max_age"`
}

// Crun configures the crun backend, for containers whose runtime options do
// not say it themselves.
type Crun struct {
	Path          string `toml:"path"` // a path, or a name for $PATH
	Root          string `toml:"root"` // "" is that of containerd's runc shim
	SystemdCgroup bool   `toml:"systemd_cgroup"`
}

// Log configures the shim's log.
type Log struct {
	Level string `toml:"level"` // "" is containerd's
}

// Apply sets the level of the process's log.
func (l Log) Apply() error {
	if l.Level == "" {
		return nil
	}
	return log.SetLevel(l.Level)
}

// Default is the configuration of a host without a file.
func Default() *Config {
	c := defaults()
	c.complete()
	return c
}

func defaults() *Config {
	return &Config{
		StateDir: "/run/nexcage",
		Routing:  Routing{DefaultBackend: BackendLXC},
		LXC: LXC{Host: HostAuto, Native: Native{LXCStart: "lxc-start", ExitStatus: ExitStatusAuto},
			UserNS: UserNSSpec, UserNSUser: "root", UserNSRange: UserNSRangeContainer, UserNSSize: 65536, UserNSFallback: UserNSFallbackError,
			PVE: PVE{VMIDMin: 900000, VMIDMax: 999999, Bridge: "vmbr0", ExitStatus: ExitStatusAuto,
				Rootfs: RootfsSnapshot, Size: 8, VolumeDir: "/var/lib/nexcage", TemplateMaxAge: "720h"}},
		Crun: Crun{Path: "crun"},
	}
}

// complete fills in what follows from other keys, and cleans the paths.
func (c *Config) complete() {
	if c.LXC.Native.LXCPath == "" && c.StateDir != "" {
		c.LXC.Native.LXCPath = filepath.Join(c.StateDir, ".lxc")
	}
	for _, l := range []*[]string{&c.LXC.PVE.Tags, &c.LXC.PVE.Nets} {
		if len(*l) == 0 {
			*l = nil // "[]" is no other value than none
		}
	}
	for _, p := range []*string{&c.StateDir, &c.LXC.Helper, &c.LXC.Native.LXCPath, &c.LXC.PVE.VolumeDir, &c.Crun.Root} {
		if *p != "" {
			*p = filepath.Clean(*p)
		}
	}
}
