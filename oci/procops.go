package oci

import (
	"cmp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// ProcessOptions is what a process needs that is not in its spec.
type ProcessOptions struct {
	// Stdin, Stdout and Stderr are the process's ends. With a terminal,
	// Stdin is its slave, and the others are not looked at.
	Stdin, Stdout, Stderr initop.FD
	// Terminal makes Stdin the controlling terminal.
	Terminal bool

	// Seccomp is the program of Plan.Filter, nil for none.
	Seccomp      []byte
	SeccompFlags uint32
	// Personality of Plan; nil leaves it.
	Personality *uint32

	// MemoryPolicy of Plan; nil leaves it.
	MemoryPolicy *MemoryPolicy
	// Procfs is the runtime's /proc, for a process that has a label of a
	// security module: the image's could be anything. AppArmorAttr is the file
	// in it that AppArmor has here (AppArmorAttr or SharedAttr).
	Procfs       initop.FD
	AppArmorAttr string

	// Home finds the user's home directory (see HomeDir), for a process
	// whose environment has no HOME. It is called only then. nil, or "" as
	// its result, means "/".
	Home func() string
	// Hook is executed in place of process.args: a startContainer hook has all
	// the rights and limits of the container's process.
	Hook *specs.Hook
	// Available are the capabilities that the runtime has, as 1<<CAP_x: no
	// other is granted (see MissingCapabilities). 0 means all.
	Available uint64
	// LimitsOutside leaves process.rlimits to the caller (Rlimits): in a user
	// namespace the process itself may not raise its hard limits.
	LimitsOutside bool
}

// defaultUmask is what the other runtimes give a process whose spec has none.
const defaultUmask = 0o022

// ProcessOps translates a process that CheckProcess found right into the
// operations that make the helper this process. prepare goes up to where
// everything that may be wrong with the process has shown: it is for create,
// so that a missing executable fails there, as with runc. start executes it.
//
// The order is the one that runc has, as far as a process or its errors can
// tell: limits and working directory as root, then the user, and the final
// capabilities before the executable is looked up.
func ProcessOps(p *specs.Process, o ProcessOptions) (prepare, start []initop.Op, err error) {
	if _, err := CheckProcess(p); err != nil {
		return nil, nil, err
	}
	caps, _ := capabilitiesOf(p.Capabilities)
	if o.Available != 0 {
		caps = caps.within(o.Available)
	}
	prepare = append(prepare, sessionOps(o)...)
	prepare = append(prepare, limitOps(p, o)...)
	prepare = append(prepare, labelOps(p, o)...)
	prepare = append(prepare, userOps(p, caps, needsAdmin(p, o))...)
	prepare = append(prepare, initop.RetryChdir(p.Cwd))
	prepare = append(prepare, lookupOp(p, o))

	start = append(start, initop.CloseFrom(3))
	start = append(start, filterOps(p, o, caps)...)
	start = append(start, execOp(p, o))
	return prepare, start, nil
}

func lookupOp(p *specs.Process, o ProcessOptions) initop.Op {
	if o.Hook != nil {
		return initop.Lookup(o.Hook.Path, "")
	}
	return initop.Lookup(p.Args[0], getenv(p.Env, "PATH"))
}

func execOp(p *specs.Process, o ProcessOptions) initop.Op {
	if o.Hook != nil {
		return initop.Exec(hookExec(*o.Hook))
	}
	return initop.Exec(p.Args, prepareEnv(p.Env, o.Home))
}

// sessionOps give the process its own session and its standard streams. It
// leads a session even without a terminal.
func sessionOps(o ProcessOptions) []initop.Op {
	out, err := o.Stdout, o.Stderr
	if o.Terminal {
		out, err = o.Stdin, o.Stdin
	}
	ops := []initop.Op{
		initop.ResetSignals(),
		initop.SetSID(),
		initop.Dup2(o.Stdin, unix.Stdin),
		initop.Dup2(out, unix.Stdout),
		initop.Dup2(err, unix.Stderr),
	}
	if o.Terminal {
		ops = append(ops, initop.SetCTTY(unix.Stdin).Of("process.terminal"))
	}
	return ops
}

// limitOps are done while the process is root, with all capabilities. So is
// chdir: root may enter a directory that the user may not, and runc lets it.
// What root may not enter, as on NFS, the user tries again.
func limitOps(p *specs.Process, o ProcessOptions) []initop.Op {
	var ops []initop.Op
	if o.Personality != nil {
		ops = append(ops, initop.Personality(*o.Personality).Of("linux.personality"))
	}
	if m := o.MemoryPolicy; m != nil {
		ops = append(ops, initop.Mempolicy(m.Mode, m.Nodes).Of("linux.memoryPolicy"))
	}
	if !o.LimitsOutside {
		for i, l := range Rlimits(p) {
			ops = append(ops, initop.RLimit(l.Resource, l.Soft, l.Hard).Of(at("process.rlimits", i)))
		}
	}
	umask := uint32(defaultUmask)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	return append(ops, initop.Umask(umask), initop.TryChdir(p.Cwd))
}

// Rlimit is an element of process.rlimits.
type Rlimit struct {
	Resource   int // RLIMIT_
	Soft, Hard uint64
}

// Rlimits are the limits of a process that CheckProcess found right.
func Rlimits(p *specs.Process) (limits []Rlimit) {
	for _, l := range p.Rlimits {
		limits = append(limits, Rlimit{rlimits[l.Type], l.Soft, l.Hard})
	}
	return limits
}

const capSysAdmin = uint64(1) << unix.CAP_SYS_ADMIN

// needsAdmin says that the filter can only be loaded with CAP_SYS_ADMIN,
// because the process may gain privileges later.
func needsAdmin(p *specs.Process, o ProcessOptions) bool {
	return o.Seccomp != nil && !p.NoNewPrivileges
}

// userOps change to the user and to its capabilities, the effective ones
// being final: execve and what is before it have the rights that they should
// have. A permitted CAP_SYS_ADMIN may be left for the filter.
func userOps(p *specs.Process, caps capSets, admin bool) []initop.Op {
	permitted := caps.permitted
	if admin {
		permitted |= capSysAdmin
	}
	return []initop.Op{
		initop.DropBounding(caps.bounding),
		initop.KeepCaps(),
		initop.SetGroups(p.User.AdditionalGids).Of("process.user.additionalGids"),
		initop.SetGID(p.User.GID).Of("process.user.gid"),
		initop.SetUID(p.User.UID).Of("process.user.uid"),
		initop.SetCaps(caps.effective, permitted, caps.inheritable).Of("process.capabilities"),
		initop.SetAmbient(caps.ambient).Of("process.capabilities.ambient"),
	}
}

// filterOps load the seccomp filter: as late as possible, since what comes
// after it must be allowed by it. That is execve, and capset if CAP_SYS_ADMIN
// was needed and is not the process's own.
func filterOps(p *specs.Process, o ProcessOptions, caps capSets) []initop.Op {
	if p.NoNewPrivileges {
		ops := []initop.Op{initop.NoNewPrivs()}
		if o.Seccomp != nil {
			ops = append(ops, seccompOp(o))
		}
		return ops
	}
	if o.Seccomp == nil {
		return nil
	}
	load := seccompOp(o)
	if caps.effective&capSysAdmin != 0 {
		return []initop.Op{load}
	}
	return []initop.Op{
		initop.SetCaps(caps.effective|capSysAdmin, caps.permitted|capSysAdmin, caps.inheritable),
		load,
		initop.SetCaps(caps.effective, caps.permitted, caps.inheritable),
	}
}

func seccompOp(o ProcessOptions) initop.Op {
	return initop.Seccomp(o.Seccomp, o.SeccompFlags).Of("linux.seccomp")
}

// ExecProcess completes the process of an exec with what it has from the
// container's own process, as runc does: each of capabilities, limits, umask,
// labels, scheduling and affinity that it does not have itself.
func ExecProcess(container, p *specs.Process) *specs.Process {
	exec := *p
	if exec.Capabilities == nil {
		exec.Capabilities = container.Capabilities
	}
	if len(exec.Rlimits) == 0 {
		exec.Rlimits = container.Rlimits
	}
	if exec.User.Umask == nil {
		exec.User.Umask = container.User.Umask
	}
	if exec.ApparmorProfile == "" {
		exec.ApparmorProfile = container.ApparmorProfile
	}
	if exec.SelinuxLabel == "" {
		exec.SelinuxLabel = container.SelinuxLabel
	}
	exec.Scheduler = cmp.Or(exec.Scheduler, container.Scheduler)
	exec.IOPriority = cmp.Or(exec.IOPriority, container.IOPriority)
	exec.ExecCPUAffinity = cmp.Or(exec.ExecCPUAffinity, container.ExecCPUAffinity)
	return &exec
}
