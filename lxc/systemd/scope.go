// Package systemd puts the control group of a container under systemd: as a
// transient scope, for linux.cgroupsPath of the form slice:prefix:name, as
// containerd and the kubelet write it for the systemd cgroup driver.
//
// It is for the LXC backend on hosts that run systemd. The scope is delegated
// (Delegate=yes): what is below it is the shim's, and systemd keeps out.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const property = "linux.cgroupsPath"

// Dir exists while systemd is the init system (sd_booted(3)).
var Dir = "/run/systemd/system"

// Scope is a transient unit.
type Scope struct {
	Unit  string // name, with .scope at its end
	Slice string // the unit above it
}

// Is says whether a cgroupsPath is of systemd's form.
func Is(cgroupsPath string) bool {
	return !strings.HasPrefix(cgroupsPath, "/") && strings.Count(cgroupsPath, ":") == 2
}

// maxName is the length of the name of a unit (systemd.unit(5)).
const maxName = 255

// unitName is what systemd.unit(5) allows in one, but for the @ of templates.
var unitName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\-]+$`)

// Parse reads slice:prefix:name; without a slice it is system.slice, without a
// prefix the name alone names the scope.
func Parse(cgroupsPath string) (Scope, error) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return Scope{}, invalid(cgroupsPath, "is not of the form slice:prefix:name")
	}
	slice, prefix, name := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	if name == "" || strings.HasSuffix(name, ".slice") {
		return Scope{}, invalid(cgroupsPath, "has no name for a scope")
	}
	if prefix != "" {
		name = prefix + "-" + name
	}
	s := Scope{Unit: name + ".scope", Slice: slice}
	for _, n := range []string{s.Unit, s.Slice} {
		if !unitName.MatchString(n) || len(n) > maxName {
			return Scope{}, invalid(cgroupsPath, fmt.Sprintf("%q is not the name of a unit", n))
		}
	}
	if _, err := s.Path(); err != nil {
		return Scope{}, invalid(cgroupsPath, err.Error())
	}
	return s, nil
}

func invalid(cgroupsPath, reason string) error {
	return fmt.Errorf("%s: %q: %s: %w", property, cgroupsPath, reason, errdefs.ErrInvalidArgument)
}

// Path is the scope's control group, below the root of a hierarchy: a slice
// a-b.slice is in a.slice (systemd.slice(5)).
func (s Scope) Path() (string, error) {
	name, ok := strings.CutSuffix(s.Slice, ".slice")
	if !ok {
		return "", fmt.Errorf("%q is not the name of a slice", s.Slice)
	}
	if name == "-" {
		return s.Unit, nil
	}
	var p, above string
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("%q is not the name of a slice", s.Slice)
		}
		above += part
		p = path.Join(p, above+".slice")
		above += "-"
	}
	return path.Join(p, s.Unit), nil
}

// Available says why there can be no scope on this host.
func Available(cgroupsPath string) error {
	if _, err := os.Stat(Dir); err != nil {
		return fmt.Errorf("%s: %q is a systemd unit (slice:prefix:name), but systemd is not running: use cgroupfs as the cgroup driver: %w",
			property, cgroupsPath, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Process is the first of a scope: systemd makes none without.
type Process struct {
	PID   int
	PIDFD *os.File
}

// Start makes the scope, with a process in it.
func (s Scope) Start(ctx context.Context, p Process, r *specs.LinuxResources, unified bool) error {
	conn, err := connect(ctx)
	if err != nil {
		return s.failed("start", err)
	}
	defer conn.Close()
	props := []systemd.Property{
		systemd.PropDescription("nexcage container " + s.Unit),
		systemd.PropSlice(s.Slice),
		flag("Delegate"), flag("MemoryAccounting"), flag("CPUAccounting"), flag("TasksAccounting"),
		{Name: "DefaultDependencies", Value: dbus.MakeVariant(false)},
	}
	if unified {
		props = append(props, flag("IOAccounting"))
	} else {
		props = append(props, flag("BlockIOAccounting"))
	}
	limits, err := properties(r, unified, version(conn))
	if err != nil {
		return err
	}
	result := make(chan string, 1)
	if err := s.submit(ctx, conn, p, append(props, limits...), result); err != nil {
		return s.failed("start", err)
	}
	select {
	case r := <-result:
		if r != "done" {
			return s.failed("start", fmt.Errorf("the job's result is %q", r))
		}
		return nil
	case <-ctx.Done():
		return s.failed("start", ctx.Err())
	}
}

// submit asks for the unit. A pidfd names the process in any pid namespace; to
// a systemd that takes none the pid is given, if it means the same there.
func (s Scope) submit(ctx context.Context, conn *systemd.Conn, p Process, props []systemd.Property, result chan<- string) error {
	start := func(process systemd.Property) error {
		_, err := conn.StartTransientUnitContext(ctx, s.Unit, "fail", append(slices.Clone(props), process), result)
		if isError(err, "UnitExists") { // of a container that failed, maybe
			_ = conn.ResetFailedUnitContext(ctx, s.Unit) // one that runs it lets alone
			_, err = conn.StartTransientUnitContext(ctx, s.Unit, "fail", append(slices.Clone(props), process), result)
		}
		return err
	}
	var err error
	if p.PIDFD != nil {
		if err = startWithPIDFD(p.PIDFD, start); err == nil || isError(err, "UnitExists") {
			return err
		}
	}
	if !initialPIDs() {
		return errors.Join(errors.New("the shim is not in the host's pid namespace, and systemd takes no pidfd"), err)
	}
	return start(systemd.PropPids(uint32(p.PID)))
}

func startWithPIDFD(f *os.File, start func(systemd.Property) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var startErr error
	err = conn.Control(func(fd uintptr) {
		startErr = start(systemd.Property{Name: "PIDFDs", Value: dbus.MakeVariant([]dbus.UnixFD{dbus.UnixFD(fd)})})
	})
	return errors.Join(err, startErr)
}

// initialPIDs says whether this process is in the first pid namespace, as
// systemd is (PROC_PID_INIT_INO of the kernel).
var initialPIDs = func() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == fmt.Sprintf("pid:[%d]", 0xEFFFFFFC)
}

// Update changes the unit's properties.
func (s Scope) Update(ctx context.Context, r *specs.LinuxResources, unified bool) error {
	conn, err := connect(ctx)
	if err != nil {
		return s.failed("update", err)
	}
	defer conn.Close()
	props, err := properties(r, unified, version(conn))
	if err != nil || len(props) == 0 {
		return err
	}
	if err := conn.SetUnitPropertiesContext(ctx, s.Unit, true, props...); err != nil {
		return s.failed("update", err)
	}
	return nil
}

// Stop ends the scope. One that is gone, as it is once it has no processes, is
// no error.
func (s Scope) Stop(ctx context.Context) error {
	conn, err := connect(ctx)
	if err != nil {
		return s.failed("stop", err)
	}
	defer conn.Close()
	result := make(chan string, 1)
	_, err = conn.StopUnitContext(ctx, s.Unit, "replace", result)
	if isError(err, "NoSuchUnit") {
		return nil
	}
	if err != nil {
		return s.failed("stop", err)
	}
	select {
	case <-result:
	case <-ctx.Done():
		return s.failed("stop", ctx.Err())
	}
	// One that failed would be in the way of the next of its name.
	if err := conn.ResetFailedUnitContext(ctx, s.Unit); err != nil && !isError(err, "NoSuchUnit") {
		return s.failed("reset", err)
	}
	return nil
}

func isError(err error, name string) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && e.Name == "org.freedesktop.systemd1."+name
}

func (s Scope) failed(doing string, err error) error {
	return fmt.Errorf("%s: %s the systemd unit %s: %w", property, doing, s.Unit, err)
}

// connect is a variable, so that tests bring a bus of their own.
var connect = systemd.NewWithContext

func flag(name string) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(true)}
}
