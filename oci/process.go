package oci

import (
	"math"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

func translateProcess(in input, p *Plan) error {
	warnings, err := CheckProcess(in.spec.Process)
	p.Process = in.spec.Process
	p.Warnings = append(p.Warnings, warnings...)
	return err
}

// CheckProcess checks a process, of a container or of an exec. The warnings
// are about capabilities that can not be granted: the runtime-spec wants them
// logged, and the process to start without. Errors are of type *FieldError.
func CheckProcess(p *specs.Process) (warnings []string, err error) {
	if p == nil {
		return nil, invalid("process", nil, "is required")
	}
	for _, check := range []func(*specs.Process) error{
		refuseProcess, checkArgs, checkEnv, checkCwd, checkUser, checkConsole, checkRlimits, checkOOMScore,
		checkLabels, checkScheduler, checkIOPriority, checkAffinity,
	} {
		if err := check(p); err != nil {
			return nil, err
		}
	}
	_, warnings = capabilitiesOf(p.Capabilities)
	return warnings, nil
}

func checkArgs(p *specs.Process) error {
	if len(p.Args) == 0 {
		return invalid("process.args", nil, "must have at least one element")
	}
	return noNULs("process.args", p.Args)
}

func checkEnv(p *specs.Process) error {
	for i, kv := range p.Env {
		if strings.IndexByte(kv, '=') <= 0 {
			return invalid(at("process.env", i), kv, "is not of the form name=value")
		}
	}
	return noNULs("process.env", p.Env)
}

func checkCwd(p *specs.Process) error {
	switch {
	case p.Cwd == "":
		return invalid("process.cwd", nil, "is required")
	case !filepath.IsAbs(p.Cwd):
		return invalid("process.cwd", p.Cwd, "is not an absolute path")
	}
	return noNUL("process.cwd", p.Cwd)
}

// noID is the id that means "do not change" to setresuid(2), so that a
// process which asks for it would stay root.
const noID = math.MaxUint32

func checkUser(p *specs.Process) error {
	u := p.User
	switch {
	case u.UID == noID:
		return invalid("process.user.uid", u.UID, "is not a user id")
	case u.GID == noID:
		return invalid("process.user.gid", u.GID, "is not a group id")
	case u.Umask != nil && *u.Umask > 0o777:
		return invalid("process.user.umask", *u.Umask, "is more than 0777")
	case len(u.AdditionalGids) > initop.MaxGroups:
		return invalid("process.user.additionalGids", nil, "has more than %d groups", initop.MaxGroups)
	}
	for i, gid := range u.AdditionalGids {
		if gid == noID {
			return invalid(at("process.user.additionalGids", i), gid, "is not a group id")
		}
	}
	return nil
}

// checkConsole looks at the size only if there is a terminal, as the
// runtime-spec says.
func checkConsole(p *specs.Process) error {
	size := p.ConsoleSize
	if !p.Terminal || size == nil {
		return nil
	}
	if size.Height > math.MaxUint16 {
		return invalid("process.consoleSize.height", size.Height, "is more than %d", math.MaxUint16)
	}
	if size.Width > math.MaxUint16 {
		return invalid("process.consoleSize.width", size.Width, "is more than %d", math.MaxUint16)
	}
	return nil
}

// oom_score_adj, proc(5).
const minOOMScore, maxOOMScore = -1000, 1000

func checkOOMScore(p *specs.Process) error {
	if v := p.OOMScoreAdj; v != nil && (*v < minOOMScore || *v > maxOOMScore) {
		return invalid("process.oomScoreAdj", *v, "is not between %d and %d", minOOMScore, maxOOMScore)
	}
	return nil
}

// rlimits by their names in getrlimit(2).
var rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

func checkRlimits(p *specs.Process) error {
	seen := map[string]bool{}
	for i, l := range p.Rlimits {
		path := at("process.rlimits", i)
		if _, ok := rlimits[l.Type]; !ok {
			return notOneOf(path+".type", l.Type, sortedKeys(rlimits))
		}
		if seen[l.Type] {
			return invalid(path+".type", l.Type, "is there twice")
		}
		seen[l.Type] = true
		if l.Soft > l.Hard {
			return invalid(path+".soft", l.Soft, "is more than the hard limit, %d", l.Hard)
		}
	}
	return nil
}

// personalities are the domains of linux.personality; the runtime-spec has no
// flags yet.
var personalities = map[specs.LinuxPersonalityDomain]uint32{
	specs.PerLinux:   0x0000, // PER_LINUX
	specs.PerLinux32: 0x0008, // PER_LINUX32
}

func translatePersonality(in input, p *Plan) error {
	per := in.linux.Personality
	if per == nil {
		return nil
	}
	domain, ok := personalities[per.Domain]
	if !ok {
		return notOneOf("linux.personality.domain", per.Domain, sortedKeys(personalities))
	}
	if len(per.Flags) > 0 {
		return invalid("linux.personality.flags[0]", string(per.Flags[0]), "is not supported: the runtime-spec has no flags")
	}
	p.Personality = &domain
	return nil
}
