// Package seccomp compiles linux.seccomp of an OCI configuration to a classic
// BPF program for seccomp(2), in pure Go.
//
// It is for whoever loads the program in the container's process; it loads
// nothing itself. A program decides as the one does that runc makes with
// libseccomp: several architectures in one filter (others are killed), the
// system calls that 32-bit x86 multiplexes, ENOSYS for calls that are newer
// than the profile, and the same precedence of rules. Whoever loads one with
// SCMP_ACT_NOTIFY gets a listener from the kernel.
package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Error says which property of linux.seccomp is refused, and why.
type Error struct {
	Path   string // below linux.seccomp, as in syscalls[3].args[0].op
	Value  any    // nil if the reason says it all
	Reason string

	kind error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("linux.seccomp")
	if e.Path != "" {
		b.WriteString("." + e.Path)
	}
	switch v := e.Value.(type) {
	case nil:
		b.WriteString(": ")
	case uint, uint64:
		fmt.Fprintf(&b, ": %d ", v)
	default:
		fmt.Fprintf(&b, ": %q ", v)
	}
	b.WriteString(e.Reason)
	return b.String()
}

// Unwrap gives errdefs.ErrInvalidArgument or errdefs.ErrNotImplemented.
func (e *Error) Unwrap() error { return e.kind }

func at(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func invalid(path string, value any, reason string) error {
	return &Error{Path: path, Value: value, Reason: reason, kind: errdefs.ErrInvalidArgument}
}

func notOneOf[T ~string](path string, value T, known []T) error {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return invalid(path, value, "is not one of "+strings.Join(names, ", "))
}

// Compile translates s to an array of struct sock_filter in the byte order of
// the machine, and the flags for SECCOMP_SET_MODE_FILTER. goarch is the
// native architecture, "" means runtime.GOARCH. Without a configuration (s is
// nil, or has neither a default action nor rules) the program is nil: there
// is no filter to load.
//
// Errors are of type *Error.
func Compile(s *specs.LinuxSeccomp, goarch string) (program []byte, flags uint32, err error) {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil, 0, nil
	}
	if s.ListenerMetadata != "" && s.ListenerPath == "" {
		return nil, 0, invalid("listenerMetadata", s.ListenerMetadata, "must not be set without listenerPath")
	}
	if flags, err = parseFlags(s.Flags); err != nil {
		return nil, 0, err
	}
	if flags, err = listenerFlags(s, flags); err != nil {
		return nil, 0, err
	}
	abis, err := selectABIs(goarch, s.Architectures)
	if err != nil {
		return nil, 0, err
	}
	p, err := parseProfile(s)
	if err != nil {
		return nil, 0, err
	}
	code, err := generate(p, abis)
	if err != nil {
		return nil, 0, err
	}
	return code.bytes(), flags, nil
}

// flagTsync is not in the runtime-spec, but in the profiles of some. The
// program is loaded by a process with one thread, so it changes nothing.
const flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// parseFlags translates the flags. Without any, not even an empty list, runc
// sets SPEC_ALLOW.
func parseFlags(list []specs.LinuxSeccompFlag) (uint32, error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint32
	for i, f := range list {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case flagTsync:
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= flagWaitKillableRecv
		default:
			return 0, notOneOf(at("flags[%d]", i), f, []specs.LinuxSeccompFlag{
				specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
				specs.LinuxSeccompFlagWaitKillableRecv, flagTsync,
			})
		}
	}
	return flags, nil
}

// flagWaitKillableRecv is SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, of Linux
// 5.19.
const flagWaitKillableRecv = 1 << 5

// listenerFlags asks for a listener if the profile has something to tell it.
// Without, the kernel would refuse flags about one, as libseccomp never sets
// them.
func listenerFlags(s *specs.LinuxSeccomp, flags uint32) (uint32, error) {
	if !slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify }) {
		return flags &^ flagWaitKillableRecv, nil
	}
	if s.ListenerPath == "" {
		return 0, invalid("listenerPath", nil, "is required for SCMP_ACT_NOTIFY")
	}
	return flags | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, nil
}

// action is a return value of the filter: SECCOMP_RET_*, with data.
type action uint32

const (
	actKillThread  action = unix.SECCOMP_RET_KILL_THREAD
	actKillProcess action = unix.SECCOMP_RET_KILL_PROCESS
	actTrap        action = unix.SECCOMP_RET_TRAP
	actErrno       action = unix.SECCOMP_RET_ERRNO
	actTrace       action = unix.SECCOMP_RET_TRACE
	actLog         action = unix.SECCOMP_RET_LOG
	actAllow       action = unix.SECCOMP_RET_ALLOW
	actNotify      action = unix.SECCOMP_RET_USER_NOTIF

	actENOSYS = actErrno | action(unix.ENOSYS)

	// maxErrno is the kernel's MAX_ERRNO; more is cut to it.
	maxErrno = 4095
)

// actions in the order in which they are named to the user.
var actions = []struct {
	name    specs.LinuxSeccompAction
	value   action
	maxData uint // of errnoRet; 0 where there is none
}{
	{specs.ActKill, actKillThread, 0},
	{specs.ActKillProcess, actKillProcess, 0},
	{specs.ActKillThread, actKillThread, 0},
	{specs.ActTrap, actTrap, 0},
	{specs.ActErrno, actErrno, maxErrno},
	{specs.ActTrace, actTrace, unix.SECCOMP_RET_DATA},
	{specs.ActAllow, actAllow, 0},
	{specs.ActLog, actLog, 0},
	{specs.ActNotify, actNotify, 0},
}

// parseAction translates an action and its errnoRet, which is EPERM if unset.
func parseAction(path string, a specs.LinuxSeccompAction, errnoPath string, errnoRet *uint) (action, error) {
	names := make([]specs.LinuxSeccompAction, 0, len(actions))
	for _, known := range actions {
		if known.name != a {
			names = append(names, known.name)
			continue
		}
		switch {
		case errnoRet == nil && known.maxData == 0:
			return known.value, nil
		case errnoRet == nil:
			return known.value | action(unix.EPERM), nil
		case known.maxData == 0:
			return 0, invalid(errnoPath, *errnoRet, "is set, but "+string(a)+" returns no errno")
		case *errnoRet > known.maxData:
			return 0, invalid(errnoPath, *errnoRet, at("is over %d", known.maxData))
		}
		return known.value | action(*errnoRet), nil
	}
	return 0, notOneOf(path, a, names)
}

// permissive tells whether calls that nobody has heard of get through, or
// are seen by a tracer that can deal with them.
func (a action) permissive() bool {
	switch a &^ unix.SECCOMP_RET_DATA {
	case actAllow, actLog, actTrace:
		return true
	}
	return false
}
