// Package initop makes the messages that tell nexcage-init, the process that
// becomes the user's process, what to do.
//
// It is for package oci, which translates a process into operations, and for
// lxc/helper, which sends them. It knows what an operation looks like, not
// which ones a process needs, nor in which order: docs/helper-protocol.md.
package initop

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// FD is the index of one of the descriptors that are sent with a message.
type FD int

// None is no descriptor; an operation that needs one can not be encoded.
const None FD = -1

// Op is one operation of the helper.
type Op struct {
	code    Code
	text    string // what it does, for people
	payload []byte
	fd      FD
	arg     string   // Chdir: the path, Lookup: the name
	paths   []string // Lookup: where the name is looked for
	err     error    // why it can not be encoded

	property string // of the spec that it applies, "" if it is not said
}

// Of says which property of the spec the operation applies.
func (o Op) Of(property string) Op {
	o.property = property
	return o
}

// Property is what Of said.
func (o Op) Property() string { return o.property }

// Code is the number of the operation in a message.
func (o Op) Code() Code { return o.code }

// String says what the operation does, as in "setuid 1000". It has no
// environment variables in it, nor data that is written.
func (o Op) String() string { return o.text }

// Arg is the path of a change of directory, or the name of a Lookup, "" for
// others.
func (o Op) Arg() string { return o.arg }

// Candidates are the paths that a Lookup tries, in this order.
func (o Op) Candidates() []string { return o.paths }

func op(code Code, payload []byte, format string, args ...any) Op {
	return Op{code: code, payload: payload, fd: None, text: fmt.Sprintf(format, args...)}
}

// onFD is an operation whose payload starts with the descriptor's index.
func onFD(code Code, fd FD, payload []byte, format string, args ...any) Op {
	o := op(code, append(u32(uint32(fd)), payload...), format, args...)
	o.fd = fd
	if fd < 0 || fd >= MaxFDs {
		o.err = o.invalid("descriptor index %d", fd)
	}
	return o
}

func (o Op) invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", o.text, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

func u32(v ...uint32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, n := range v {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func u64(v ...uint64) []byte {
	b := make([]byte, 0, 8*len(v))
	for _, n := range v {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// ResetSignals sets every signal to its default and unblocks all.
func ResetSignals() Op { return op(CodeResetSignals, nil, "reset signals") }

// Dup2 makes descriptor number target, at most MaxTarget, a copy of fd.
func Dup2(fd FD, target int) Op {
	o := onFD(CodeDup2, fd, u32(uint32(target)), "dup2 to descriptor %d", target)
	if o.err == nil {
		o.err = o.checkTarget(target)
	}
	return o
}

func (o Op) checkTarget(target int) error {
	if target < 0 || target > MaxTarget {
		return o.invalid("not between 0 and %d", MaxTarget)
	}
	return nil
}

// SetSID starts a session (setsid(2)). It is no error if the process leads
// one already, as the first process of an LXC container does.
func SetSID() Op { return op(CodeSetSID, nil, "setsid") }

// SetCTTY makes the terminal at descriptor number target the controlling
// terminal of the session.
func SetCTTY(target int) Op {
	o := op(CodeSetCTTY, u32(uint32(target)), "set controlling terminal to descriptor %d", target)
	o.err = o.checkTarget(target)
	return o
}

// Umask sets the file mode creation mask.
func Umask(mask uint32) Op { return op(CodeUmask, u32(mask), "umask %#o", mask) }

// RLimit sets a resource limit, a RLIMIT_ constant. A soft limit of open
// files under about 16 leaves no room for descriptors in later messages.
func RLimit(resource int, soft, hard uint64) Op {
	payload := append(u32(uint32(resource), 0), u64(soft, hard)...)
	return op(CodeRLimit, payload, "set rlimit %d to %d, %d", resource, soft, hard)
}

// SetGroups sets the supplementary groups.
func SetGroups(gids []uint32) Op {
	o := op(CodeSetGroups, u32(gids...), "setgroups %v", gids)
	if len(gids) > MaxGroups {
		o.text = fmt.Sprintf("setgroups of %d groups", len(gids))
		o.err = o.invalid("more than %d", MaxGroups)
	}
	return o
}

// SetGID sets the real, effective and saved group id.
func SetGID(gid uint32) Op { return op(CodeSetGID, u32(gid), "setgid %d", gid) }

// SetUID sets the real, effective and saved user id.
func SetUID(uid uint32) Op { return op(CodeSetUID, u32(uid), "setuid %d", uid) }

// KeepCaps lets the permitted capabilities survive SetUID (PR_SET_KEEPCAPS).
// The effective ones do not: SetCaps raises them again.
func KeepCaps() Op { return op(CodeKeepCaps, nil, "keep capabilities") }

// DropBounding drops every capability from the bounding set that is not in
// keep, a mask of 1<<CAP_x.
func DropBounding(keep uint64) Op {
	return op(CodeDropBounding, u64(keep), "drop bounding capabilities except %#x", keep)
}

// SetCaps sets the capabilities of the process (capset(2)).
func SetCaps(effective, permitted, inheritable uint64) Op {
	return op(CodeSetCaps, u64(effective, permitted, inheritable),
		"set capabilities to %#x, %#x, %#x", effective, permitted, inheritable)
}

// SetAmbient sets the ambient capabilities, which must be permitted and
// inheritable already.
func SetAmbient(caps uint64) Op {
	return op(CodeSetAmbient, u64(caps), "set ambient capabilities to %#x", caps)
}

// NoNewPrivs sets the no_new_privs attribute.
func NoNewPrivs() Op { return op(CodeNoNewPrivs, nil, "set no_new_privs") }

// Chdir changes the working directory.
func Chdir(path string) Op {
	o := op(CodeChdir, cstrings(path), "chdir %q", path)
	o.arg = path
	if path == "" || hasNUL(path) {
		o.err = o.invalid("not a path")
	}
	return o
}

// TryChdir changes the working directory, unless the credentials are not
// enough for it (EACCES, EPERM): then RetryChdir does it. Both must be in one
// message.
func TryChdir(path string) Op {
	o := Chdir(path)
	o.code = CodeTryChdir
	return o
}

// RetryChdir is Chdir, if TryChdir could not.
func RetryChdir(path string) Op {
	o := Chdir(path)
	o.code = CodeRetryChdir
	o.text += ", if it was refused"
	return o
}

// Personality sets the execution domain (personality(2)).
func Personality(p uint32) Op { return op(CodePersonality, u32(p), "personality %#x", p) }

// Seccomp loads a filter: an array of struct sock_filter. It needs either
// NoNewPrivs or an effective CAP_SYS_ADMIN before it. The flags are
// SECCOMP_FILTER_FLAG_; with NEW_LISTENER the helper waits until the shim has
// taken the listener.
func Seccomp(program []byte, flags uint32) Op {
	o := op(CodeSeccomp, append(u32(flags, 0), program...), "load seccomp filter of %d bytes", len(program))
	if len(program) == 0 || len(program)%8 != 0 || len(program)/8 > MaxFilter {
		o.err = o.invalid("not a program of 1 to %d instructions", MaxFilter)
	}
	return o
}

// CloseFrom lets execve close every descriptor from number fd on.
func CloseFrom(fd int) Op {
	o := op(CodeCloseFrom, u32(uint32(fd)), "close descriptors from %d", fd)
	if fd < 0 {
		o.err = o.invalid("negative")
	}
	return o
}

// Lookup finds the executable as Go's exec.LookPath does, and so runc: with
// the credentials that the process has at this point. A name with a slash is
// that file, any other is looked for in path, the value of $PATH. Exec
// executes what was found.
func Lookup(name, path string) Op {
	paths, search := []string{name}, uint32(0)
	if !strings.Contains(name, "/") {
		paths, search = candidates(name, path), 1
	}
	payload := append(u32(uint32(len(paths)), search), cstrings(paths...)...)
	o := op(CodeLookup, payload, "look up %q", name)
	o.arg, o.paths = name, paths
	if hasNUL(name, path) {
		o.err = o.invalid("has a NUL byte")
	}
	return o
}

func candidates(name, path string) []string {
	var paths []string
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths
}

// Exec executes what Lookup found, in this message or an earlier one. It is
// the last operation: the helper is no more.
func Exec(argv, env []string) Op {
	payload := u32(uint32(len(argv)), uint32(len(env)))
	payload = append(payload, make([]byte, 8*(len(argv)+len(env)+2))...)
	payload = append(append(payload, cstrings(argv...)...), cstrings(env...)...)
	o := op(CodeExec, payload, "exec %q", argv)
	switch {
	case len(argv) == 0:
		o.err = o.invalid("no arguments")
	case hasNUL(argv...):
		o.err = o.invalid("an argument has a NUL byte")
	case hasNUL(env...):
		o.err = o.invalid("an environment variable has a NUL byte")
	}
	return o
}

// JoinCgroup moves the process to a cgroup: fd is its open cgroup.procs.
func JoinCgroup(fd FD) Op { return onFD(CodeJoinCgroup, fd, nil, "join cgroup") }

// SetNS joins a namespace (setns(2)); with a pidfd, nstype may be several
// CLONE_NEW flags.
func SetNS(fd FD, nstype int) Op {
	return onFD(CodeSetNS, fd, u32(uint32(nstype)), "join namespaces %#x", nstype)
}

// Fork makes a child of the shim that goes on with the next operation, and is
// in the pid namespace that was joined. The process before is gone.
func Fork() Op { return op(CodeFork, nil, "fork") }

// WriteFD writes data with one write(2), as files of /proc want it.
func WriteFD(fd FD, data []byte) Op {
	o := onFD(CodeWriteFD, fd, append(u32(0), data...), "write %d bytes", len(data))
	if len(data) == 0 && o.err == nil {
		o.err = o.invalid("nothing to write")
	}
	return o
}

// WriteAt writes data with one write(2) to the file at path, which is relative
// to the directory fd. It is for files that the process must open itself, as
// self/attr/exec in a procfs.
func WriteAt(fd FD, path, data string) Op {
	o := onFD(CodeWriteAt, fd, append(u32(0), cstrings(path, data)...), "write %q to %s", data, path)
	switch {
	case o.err != nil:
	case path == "" || hasNUL(path):
		o.err = o.invalid("not a path")
	case data == "":
		o.err = o.invalid("nothing to write")
	case hasNUL(data):
		o.err = o.invalid("the data has a NUL byte")
	}
	return o
}

// Mempolicy sets the memory policy (set_mempolicy(2)): a MPOL_ mode with its
// flags, and the nodes by number, none for a mode that has none.
func Mempolicy(mode uint32, nodes []int) Op {
	mask, ok := mask64(nodes, MaxNodes)
	o := op(CodeMempolicy, append(u32(mode, 0), u64(mask...)...), "set memory policy %#x of nodes %v", mode, nodes)
	if !ok {
		o.err = o.invalid("a node is not between 0 and %d", MaxNodes-1)
	}
	return o
}

// Affinity lets the process run on these CPUs only (sched_setaffinity(2)).
func Affinity(cpus []int) Op {
	mask, ok := mask64(cpus, MaxCPUs)
	o := op(CodeAffinity, u64(mask...), "set affinity to CPUs %v", cpus)
	if !ok || len(cpus) == 0 {
		o.err = o.invalid("not CPUs between 0 and %d", MaxCPUs-1)
	}
	return o
}

// mask64 is a bit mask of numbers below limit.
func mask64(numbers []int, limit int) (mask []uint64, ok bool) {
	for _, n := range numbers {
		if n < 0 || n >= limit {
			return nil, false
		}
		for len(mask) <= n/64 {
			mask = append(mask, 0)
		}
		mask[n/64] |= 1 << (n % 64)
	}
	return mask, true
}

// SessionKeyring gives the process a new session keyring instead of the one
// of the shim, which a process that LXC did not start would have.
func SessionKeyring() Op { return op(CodeSessionKeyring, nil, "join a new session keyring") }

// Unshare moves the process into new namespaces, CLONE_NEW* of unshare(2).
func Unshare(flags int) Op { return op(CodeUnshare, u32(uint32(flags)), "unshare %#x", flags) }

// FSOpen opens a file system context (fsopen(2), Linux 5.2), which comes back
// with the reply: the file system that is made with it belongs to the helper's
// user namespace, whoever makes it.
func FSOpen(fsType string) Op {
	o := op(CodeFSOpen, cstrings(fsType), "fsopen %q", fsType)
	if fsType == "" || hasNUL(fsType) {
		o.err = o.invalid("not a file system type")
	}
	return o
}

func cstrings(s ...string) []byte {
	var b []byte
	for _, v := range s {
		b = append(append(b, v...), 0)
	}
	return b
}

func hasNUL(s ...string) bool {
	for _, v := range s {
		if strings.IndexByte(v, 0) >= 0 {
			return true
		}
	}
	return false
}
