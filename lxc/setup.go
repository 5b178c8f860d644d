package lxc

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/stdio"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// Indices of a process's standard streams among the descriptors that go to
// the helper.
const (
	fdStdin initop.FD = iota
	fdStdout
	fdStderr
)

func (c *Container) processOptions(p *Process) oci.ProcessOptions {
	o := oci.ProcessOptions{
		Stdin: fdStdin, Stdout: fdStdout, Stderr: fdStderr,
		Terminal:    p.Stdio.Terminal,
		Personality: c.plan.Personality, MemoryPolicy: c.plan.MemoryPolicy,
		Procfs: fdStderr + 1, AppArmorAttr: appArmorAttr(),
		Home:      func() string { return c.home(p.spec.User.UID) },
		Available: c.capabilities(),
	}
	if o.Terminal {
		o.Procfs = fdStdin + 1
	}
	o.LimitsOutside = c.plan.UserNamespace()
	if f := c.plan.Filter; f != nil {
		o.Seccomp, o.SeccompFlags = f.Program, f.Flags
	}
	return o
}

// capabilities are what a process of the container can be given: in a user
// namespace there are all, whatever the shim has.
func (c *Container) capabilities() uint64 {
	if c.plan.UserNamespace() {
		return math.MaxUint64
	}
	return ownCapabilities()
}

// ownCapabilities are what the shim can give away: its bounding set, as
// 1<<CAP_x (capget(2), for the calling process).
var ownCapabilities = sync.OnceValue(func() uint64 {
	var all uint64
	for c := uintptr(0); c < 64; c++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && has == 1 {
			all |= 1 << c
		}
	}
	return all
})

// openIO connects the process with containerd's end. The pipes are the
// user's, so that it may open /dev/stdout again.
func (c *Container) openIO(ctx context.Context, p *Process) (err error) {
	uid, gid := c.hostOwner(p.spec.User)
	if c.request.IOUID != 0 || c.request.IOGID != 0 {
		gid = c.request.IOGID // runc leaves the group, and gives them to the user
	}
	p.io, err = stdio.Open(ctx, stdio.Config{
		ID: c.ID(), Namespace: c.request.Namespace,
		Stdin: p.Stdio.Stdin, Stdout: p.Stdio.Stdout, Stderr: p.Stdio.Stderr,
		Terminal: p.Stdio.Terminal,
		UID:      uid, GID: gid,
		Open: c.request.OpenIO,
	})
	return err
}

// processFiles returns the standard streams of the process in the order of the
// constants, or the slave of its new terminal: for closeEnds, once the process
// has them.
func (c *Container) processFiles(p *Process, isInit bool) (files []*os.File, err error) {
	if !p.Stdio.Terminal {
		in, out, errout := p.io.Files()
		return []*os.File{in, out, errout}, nil
	}
	master, slave, err := c.root.Console(p.spec, isInit)
	if err != nil {
		return nil, err
	}
	if err := p.io.SetConsole(master); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	return []*os.File{slave}, nil
}

// closeEnds closes the shim's copies of the process's end of its stdio.
func (p *Process) closeEnds(files []*os.File) {
	if p.Stdio.Terminal {
		closeAll(files)
	}
	p.io.CloseProcessEnds()
}

// discardIO closes the stdio of a process that never was.
func (p *Process) discardIO() error {
	if p.io == nil {
		return nil
	}
	return p.io.Close()
}

// home is the user's home directory by the container's /etc/passwd.
func (c *Container) home(uid uint32) string {
	passwd, err := c.root.Open("/etc/passwd")
	if err != nil {
		return "" // an image need not have one
	}
	defer passwd.Close()
	return oci.HomeDir(passwd, uid)
}

func dup(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var derr error
	if err := conn.Control(func(old uintptr) { fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, derr
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
