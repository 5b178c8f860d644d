package config

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
)

// Validate tells what is wrong with a configuration, all of it: each error
// names the key, wraps errdefs.ErrInvalidArgument, and says what is allowed.
func (c *Config) Validate() error {
	return errors.Join(
		directory("state_dir", c.StateDir),
		c.Routing.validate(),
		c.LXC.validate(),
		c.Crun.validate(),
		oneOf("log.level", c.Log.Level, "", "trace", "debug", "info", "warn", "error", "fatal", "panic"),
	)
}

func (r *Routing) validate() error {
	errs := []error{
		oneOf("routing.default_backend", r.DefaultBackend, BackendLXC, BackendCrun),
		oneOf("routing.fallback", r.Fallback, "", BackendCrun),
	}
	for i := range r.Rules {
		errs = append(errs, r.Rules[i].validate(fmt.Sprintf("routing.rules[%d]", i)))
	}
	return errors.Join(errs...)
}

func (r *Rule) validate(key string) error {
	errs := []error{oneOf(key+".backend", r.Backend, BackendLXC, BackendCrun)}
	conditions := r.Conditions()
	if len(conditions) == 0 {
		errs = append(errs, invalid(key, "has no condition and would match every container: routing.default_backend is for that"))
	}
	for _, c := range conditions {
		if _, err := regexp.Compile(c.Pattern); err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w: %w", key, c.Key, err, errdefs.ErrInvalidArgument))
		}
	}
	return errors.Join(errs...)
}

func (l *LXC) validate() error {
	errs := []error{oneOf("lxc.host", l.Host, HostAuto, HostNative, HostPVE), l.PVE.validate()}
	if l.Helper != "" {
		errs = append(errs, directory("lxc.helper", l.Helper))
	}
	for i, a := range l.AllowedAnnotations {
		errs = append(errs, oneOf(fmt.Sprintf("lxc.allowed_annotations[%d]", i), a, Annotations()...))
	}
	errs = append(errs, l.validateUserNS())
	return errors.Join(append(errs,
		program("lxc.native.lxc_start", l.Native.LXCStart),
		directory("lxc.native.lxc_path", l.Native.LXCPath),
		oneOf("lxc.native.exit_status", l.Native.ExitStatus, ExitStatusAuto, ExitStatusPIDFD, ExitStatusMonitor),
	)...)
}

func (l *LXC) validateUserNS() error {
	errs := []error{
		oneOf("lxc.userns", l.UserNS, UserNSSpec, UserNSAuto),
		oneOf("lxc.userns_range", l.UserNSRange, UserNSRangeContainer, UserNSRangeShared),
		oneOf("lxc.userns_fallback", l.UserNSFallback, UserNSFallbackError, UserNSFallbackPlain),
		printable("lxc.userns_user", l.UserNSUser),
	}
	if l.UserNSUser == "" || strings.Contains(l.UserNSUser, ":") {
		errs = append(errs, invalid("lxc.userns_user", "%q is not a user", l.UserNSUser))
	}
	if l.UserNSSize == 0 || l.UserNSSize == math.MaxUint32 {
		errs = append(errs, invalid("lxc.userns_size", "%d is no size of a range", l.UserNSSize))
	}
	return errors.Join(errs...)
}

// MaxPVENets is how many interfaces a CT can have.
const MaxPVENets = 32

// PVENet is the annotation of an interface of a CT.
func PVENet(i int) string { return AnnotationPVENet + strconv.Itoa(i) }

// The VMIDs that Proxmox allows.
const minVMID, maxVMID = 100, 999999999

func (p *PVE) validate() error {
	errs := []error{oneOf("lxc.pve.exit_status", p.ExitStatus, ExitStatusAuto, ExitStatusPIDFD, ExitStatusMonitor)}
	if p.Pct != "" {
		errs = append(errs, program("lxc.pve.pct", p.Pct))
	}
	if p.VMIDMin < minVMID || p.VMIDMin > maxVMID {
		errs = append(errs, invalid("lxc.pve.vmid_min", "%d is not from %d to %d", p.VMIDMin, minVMID, maxVMID))
	}
	if p.VMIDMax < p.VMIDMin || p.VMIDMax > maxVMID {
		errs = append(errs, invalid("lxc.pve.vmid_max", "%d is not from lxc.pve.vmid_min, %d, to %d", p.VMIDMax, p.VMIDMin, maxVMID))
	}
	if !pveBridge.MatchString(p.Bridge) {
		errs = append(errs, invalid("lxc.pve.bridge", "%q is no name of a bridge", p.Bridge))
	}
	if len(p.Nets) > MaxPVENets {
		errs = append(errs, invalid("lxc.pve.nets", "has %d interfaces, Proxmox allows %d", len(p.Nets), MaxPVENets))
	}
	for i, n := range p.Nets {
		if n == "" {
			errs = append(errs, invalid(fmt.Sprintf("lxc.pve.nets[%d]", i), "is empty"))
		}
	}
	errs = append(errs, p.validateVolumes())
	for i, t := range p.Tags {
		errs = append(errs, CheckTag(fmt.Sprintf("lxc.pve.tags[%d]", i), t))
	}
	return errors.Join(append(errs, CheckFeatures("lxc.pve.features", p.Features))...)
}

func (p *PVE) validateVolumes() error {
	errs := []error{
		CheckRootfs("lxc.pve.rootfs", p.Rootfs), CheckSize("lxc.pve.size", p.Size), directory("lxc.pve.volume_dir", p.VolumeDir),
	}
	switch {
	case p.Storage != "":
		errs = append(errs, CheckStorage("lxc.pve.storage", p.Storage))
	case p.Rootfs == RootfsVolume:
		errs = append(errs, invalid("lxc.pve.storage", "has to be given for lxc.pve.rootfs = %q", RootfsVolume))
	}
	if _, err := p.MaxAge(); err != nil {
		errs = append(errs, invalid("lxc.pve.template_max_age", "%q is no duration as 720h", p.TemplateMaxAge))
	}
	return errors.Join(errs...)
}

// MaxAge is TemplateMaxAge, 0 for none.
func (p *PVE) MaxAge() (time.Duration, error) {
	if p.TemplateMaxAge == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(p.TemplateMaxAge)
	if err == nil && d <= 0 {
		err = invalid("lxc.pve.template_max_age", "%q is no time that passes", p.TemplateMaxAge)
	}
	return d, err
}

// CheckRootfs checks the kind of a root file system; key is where it is from.
func CheckRootfs(key, kind string) error { return oneOf(key, kind, RootfsSnapshot, RootfsVolume) }

// CheckStorage checks the name of a storage.
func CheckStorage(key, name string) error {
	if !pveStorage.MatchString(name) {
		return invalid(key, "%q is no name of a storage", name)
	}
	return nil
}

// maxVolumeGiB is more than any storage has, in GiB.
const maxVolumeGiB = 128 << 10

// CheckSize checks the size of a volume.
func CheckSize(key string, gib int) error {
	if gib < 1 || gib > maxVolumeGiB {
		return invalid(key, "%d is not from 1 to %d GiB", gib, maxVolumeGiB)
	}
	return nil
}

var (
	pveStorage  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]$`) // pve-storage-id
	pveTag      = regexp.MustCompile(`^[a-z0-9_][a-z0-9_\-+.]*$`)
	pveBridge   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.\-]*$`)
	pveFeatures = regexp.MustCompile(`^[a-z_]+=[a-z0-9;]+(,[a-z_]+=[a-z0-9;]+)*$`)
)

// CheckTag checks a tag of a CT; key is where it is from.
func CheckTag(key, tag string) error {
	if !pveTag.MatchString(tag) {
		return invalid(key, "%q is no tag of Proxmox: lower-case letters, digits, and then also - + . _", tag)
	}
	return nil
}

// CheckFeatures checks the features of a CT, "" for none.
func CheckFeatures(key, features string) error {
	if features != "" && !pveFeatures.MatchString(features) {
		return invalid(key, "%q is not of the form nesting=1,keyctl=1", features)
	}
	return nil
}

func (c *Crun) validate() error {
	err := program("crun.path", c.Path)
	if c.Root != "" {
		err = errors.Join(err, directory("crun.root", c.Root))
	}
	return err
}

// Annotations are those that the shim knows, sorted.
func Annotations() []string {
	all := []string{AnnotationBackend, AnnotationPVEFeatures, AnnotationPVEOnBoot, AnnotationPVESize, AnnotationPVEStorage, AnnotationPVETags, AnnotationRootfs, AnnotationVMID}
	for i := range MaxPVENets {
		all = append(all, PVENet(i))
	}
	slices.Sort(all)
	return all
}

func oneOf(key, value string, allowed ...string) error {
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		if value == a {
			return nil
		}
		quoted[i] = fmt.Sprintf("%q", a)
	}
	return invalid(key, "%q is not one of %s", value, strings.Join(quoted, ", "))
}

// directory checks a path, which must not depend on where the shim was
// started.
func directory(key, path string) error {
	if !filepath.IsAbs(path) {
		return invalid(key, "%q is not an absolute path", path)
	}
	return printable(key, path)
}

// program checks a path, or a name that is looked up in $PATH.
func program(key, name string) error {
	if name == "" || strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return invalid(key, "%q is neither an absolute path nor a name to look up in $PATH", name)
	}
	return printable(key, name)
}

func printable(key, path string) error {
	if strings.ContainsFunc(path, unicode.IsControl) {
		return invalid(key, "%q has control characters", path)
	}
	return nil
}

func invalid(key, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", key, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
