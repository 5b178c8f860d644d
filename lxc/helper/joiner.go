package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// Joiner starts helpers that join a container.
type Joiner struct {
	file *os.File // the helper's file, on a read-only mount of its own
}

// NewJoiner opens the helper. The user's program may come by the file of the
// process that it replaces (a script with "#!/proc/self/exe" is enough,
// CVE-2019-5736), so that is a read-only mount which is nowhere attached.
func NewJoiner(helperPath string) (*Joiner, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, helperPath, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: helperPath, Err: err}
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "mount_setattr", Path: helperPath, Err: err}
	}
	return &Joiner{file: os.NewFile(uintptr(fd), helperPath)}, nil
}

// Close closes the helper's file. Processes that were started stay.
func (j *Joiner) Close() error { return j.file.Close() }

// Joined is a helper that has joined a container, and is a child of the
// caller. Run, Exec and Close are those of Conn.
type Joined struct {
	*stream
	Child *child.Child
	PIDFD *os.File // the caller's, also after Close; see Conn.PIDFD
}

// Join starts a helper and lets it do ops, of which exactly one is a Fork:
// what comes before makes it a member of cgroups and namespaces, what comes
// after is done by the process that Fork makes, which Joined is. If Join fails
// or ctx ends, no process is left.
func (j *Joiner) Join(ctx context.Context, ops []initop.Op, files ...*os.File) (*Joined, error) {
	if err := only(ops, 1, 0); err != nil {
		return nil, err
	}
	s, end, err := pair()
	if err != nil {
		return nil, err
	}
	forked := child.Expect()
	defer forked.Cancel()
	cmd := j.command(end)
	_, err = child.Start(cmd)
	end.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the helper: %w", err), s.Close())
	}
	r, err := s.join(ctx, ops, files)
	if err != nil {
		kill(cmd.Process, r.file)
		s.Close()
		return nil, err
	}
	s.pidfd = r.file
	return &Joined{stream: s, Child: forked.Adopt(int(r.value)), PIDFD: r.file}, nil
}

// command is the helper with nothing from the caller but the socket.
func (j *Joiner) command(socket *os.File) *exec.Cmd {
	return &exec.Cmd{
		// Not /proc/self: between fork and exec that is the child, whose
		// descriptors os/exec moves about.
		Path:       fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), j.file.Fd()),
		Args:       []string{"nexcage-init", "3"},
		Env:        []string{},
		Dir:        "/",
		ExtraFiles: []*os.File{socket},
	}
}

// pair returns a stream, and the end of it that is given to the helper.
func pair() (*stream, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "helper"), os.NewFile(uintptr(fds[1]), "helper")
	defer ours.Close() // FileConn has a duplicate
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("connection to the helper: %w", err)
	}
	return &stream{conn: c.(*net.UnixConn)}, theirs, nil
}

// join returns the reply of Fork, also with an error, once every operation is
// done. Two processes answer, so the replies come in either order.
func (s *stream) join(ctx context.Context, ops []initop.Op, files []*os.File) (forked reply, err error) {
	err = s.during(ctx, func() error {
		if _, err := s.send(ctx, ops, files); err != nil {
			return err
		}
		var last *reply
		for last == nil || (forked.file == nil && comesAfterFork(*last, ops)) {
			r, err := s.receive()
			switch {
			case errors.Is(err, io.EOF):
				return ErrEnded
			case err != nil:
				return err
			case r.kind == initop.ReplyForked:
				forked = r
			default:
				last = &r
			}
		}
		return s.check(*last, ops)
	})
	return forked, err
}

// comesAfterFork tells whether r is from the process that Fork made.
func comesAfterFork(r reply, ops []initop.Op) bool {
	fork := slices.IndexFunc(ops, func(o initop.Op) bool { return o.Code() == initop.CodeFork })
	return r.kind == initop.ReplyOK || (r.kind == initop.ReplyFailed && int(r.index) > fork)
}

// kill ends what may be left of a Join that failed; a process in a frozen
// cgroup does not see that the connection is closed. Both may be gone.
func kill(joiner *os.Process, forked *os.File) {
	_ = joiner.Kill()
	if forked != nil {
		_ = unix.PidfdSendSignal(int(forked.Fd()), unix.SIGKILL, nil, 0)
		forked.Close()
	}
}
