package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
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
	errs := []error{l.validateHost()}
	if l.Helper != "" {
		errs = append(errs, directory("lxc.helper", l.Helper))
	}
	for i, a := range l.AllowedAnnotations {
		errs = append(errs, oneOf(fmt.Sprintf("lxc.allowed_annotations[%d]", i), a, Annotations()...))
	}
	return errors.Join(append(errs,
		program("lxc.native.lxc_start", l.Native.LXCStart),
		directory("lxc.native.lxc_path", l.Native.LXCPath),
		oneOf("lxc.native.exit_status", l.Native.ExitStatus, ExitStatusAuto, ExitStatusPIDFD, ExitStatusMonitor),
	)...)
}

func (l *LXC) validateHost() error {
	if l.Host == "pve" {
		return invalid("lxc.host", `"pve" is not supported yet, use "auto" or "native"`)
	}
	return oneOf("lxc.host", l.Host, HostAuto, HostNative)
}

func (c *Crun) validate() error {
	err := program("crun.path", c.Path)
	if c.Root != "" {
		err = errors.Join(err, directory("crun.root", c.Root))
	}
	return err
}

// Annotations are those that the shim knows, sorted.
func Annotations() []string { return []string{AnnotationBackend} }

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
