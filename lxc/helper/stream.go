package helper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// stream carries messages to a helper and its replies back. It is used by
// one goroutine at a time; Close may come from any.
type stream struct {
	// Notify takes the listener of a seccomp filter with SCMP_ACT_NOTIFY, and
	// does not keep it. The process goes on when it has returned, and is
	// killed if it fails.
	Notify func(ctx context.Context, listener *os.File) error

	conn   *net.UnixConn
	pidfd  *os.File  // of the helper
	lookup initop.Op // the last Lookup that was done
}

type reply struct {
	kind, index, code uint32
	value             int32
	extra             uint32
	file              *os.File // of ReplyForked a pidfd, of ReplyOpened what was opened
}

// Run sends operations and waits until they are done. A failed one is an
// *OpError, and the helper's end. If ctx ends first the connection is closed,
// and so the helper ends too.
func (s *stream) Run(ctx context.Context, ops []initop.Op, files ...*os.File) error {
	if err := only(ops, 0, 0); err != nil {
		return err
	}
	return s.during(ctx, func() error {
		r, err := s.exchange(ctx, ops, files)
		if errors.Is(err, io.EOF) {
			return ErrEnded
		}
		if err != nil {
			return err
		}
		return s.check(r, ops)
	})
}

// Open lets the helper open a file system context of that type. The file is
// the caller's.
func (s *stream) Open(ctx context.Context, fsType string) (file *os.File, err error) {
	ops := []initop.Op{initop.FSOpen(fsType)}
	err = s.during(ctx, func() error {
		r, err := s.exchange(ctx, ops, nil)
		if err == nil && r.kind == initop.ReplyOpened {
			file = r.file
			r, err = s.receive()
		}
		if errors.Is(err, io.EOF) {
			err = ErrEnded
		}
		if err != nil {
			return err
		}
		return s.check(r, ops)
	})
	if err == nil && file == nil {
		err = fmt.Errorf("the helper sent no descriptor: %w", errdefs.ErrInternal)
	}
	if err != nil {
		closeFile(file)
		return nil, fmt.Errorf("fsopen %q: %w", fsType, err)
	}
	return file, nil
}

// Exec sends operations of which the last is Exec, and waits until the user's
// program has taken the helper's place. Otherwise it is like Run.
func (s *stream) Exec(ctx context.Context, ops []initop.Op, files ...*os.File) error {
	if err := only(ops, 0, 1); err != nil {
		return err
	}
	return s.during(ctx, func() error {
		r, err := s.exchange(ctx, ops, files)
		if errors.Is(err, io.EOF) {
			return nil // execve closed the helper's end
		}
		if err != nil {
			return err
		}
		return s.check(r, ops)
	})
}

// Close ends the connection, and with it a helper that waits.
func (s *stream) Close() error { return s.conn.Close() }

// only refuses operations whose replies the caller does not wait for.
func only(ops []initop.Op, forks, execs int) error {
	count := func(c initop.Code) (n int) {
		for _, o := range ops {
			if o.Code() == c {
				n++
			}
		}
		return n
	}
	if f, e := count(initop.CodeFork), count(initop.CodeExec); f != forks || e != execs {
		return fmt.Errorf("%d fork and %d exec operations in a message with %d and %d: %w",
			f, e, forks, execs, errdefs.ErrInvalidArgument)
	}
	return nil
}

// during closes the connection when ctx ends before f does.
func (s *stream) during(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	err := f()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("waiting for the helper: %w", context.Cause(ctx))
	}
	return err
}

// exchange sends operations and waits for the first reply; io.EOF if there is
// none.
func (s *stream) exchange(ctx context.Context, ops []initop.Op, files []*os.File) (reply, error) {
	refused, err := s.send(ctx, ops, files)
	if err != nil {
		return reply{}, err
	}
	r, err := s.receive()
	for err == nil && r.kind == initop.ReplyListener {
		if err = s.handOver(ctx, r); err == nil {
			r, err = s.receive()
		}
	}
	if refused && errors.Is(err, io.EOF) {
		err = ErrEnded
	}
	return r, err
}

// send reports whether the helper has closed its end meanwhile: one that
// refuses what it has seen so far says why before it ends.
func (s *stream) send(ctx context.Context, ops []initop.Op, files []*os.File) (refused bool, err error) {
	msg, err := initop.Encode(ops)
	if err != nil {
		return false, err
	}
	if n := initop.Descriptors(ops); n != len(files) {
		return false, fmt.Errorf("%d descriptors for operations that use %d: %w", len(files), n, errdefs.ErrInvalidArgument)
	}
	log.G(ctx).WithField("operations", ops).Debug("message to the helper")
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(numbers(files)...)
	}
	n, _, err := s.conn.WriteMsgUnix(msg, rights, nil)
	runtime.KeepAlive(files)
	if err == nil && n < len(msg) {
		_, err = s.conn.Write(msg[n:])
	}
	if errors.Is(err, unix.EPIPE) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("send to the helper: %w", err)
	}
	return false, nil
}

// numbers uses Fd, which makes the pipes of package os blocking again: that is
// what the user's program expects of its stdio.
func numbers(files []*os.File) []int {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	return fds
}

// receive reads one reply; io.EOF if the other end was closed.
func (s *stream) receive() (reply, error) {
	buf := make([]byte, initop.ReplySize)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
	if errors.Is(err, io.EOF) {
		return reply{}, io.EOF
	}
	if errors.Is(err, unix.ECONNRESET) {
		return reply{}, ErrEnded
	}
	if err != nil {
		return reply{}, fmt.Errorf("read from the helper: %w", err)
	}
	file, err := descriptor(oob[:oobn])
	if err != nil {
		return reply{}, err
	}
	if _, err := io.ReadFull(s.conn, buf[n:]); err != nil {
		closeFile(file)
		return reply{}, fmt.Errorf("read from the helper: %w", err)
	}
	return parse(buf, file)
}

func parse(buf []byte, file *os.File) (reply, error) {
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(buf[4*i:]) }
	r := reply{kind: u32(1), index: u32(2), code: u32(3), value: int32(u32(4)), extra: u32(5), file: file}
	if u32(0) != initop.Magic || carriesFile(r.kind) != (file != nil) {
		closeFile(file)
		return reply{}, fmt.Errorf("not a reply of the helper: %x: %w", buf, errdefs.ErrInternal)
	}
	return r, nil
}

func carriesFile(kind uint32) bool { return kind == initop.ReplyForked || kind == initop.ReplyOpened }

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// descriptor is the one that came with a reply, nil if there is none.
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message of the helper: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, fmt.Errorf("descriptor from the helper: %w", err)
	}
	return pidfile(fds[0])
}

// pidfile makes a file of a pidfd that the runtime can wait for.
func pidfile(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// check turns the last reply to ops into an error.
func (s *stream) check(r reply, ops []initop.Op) error {
	switch {
	case r.kind == initop.ReplyOK:
		if i := slices.IndexFunc(ops, isLookup); i >= 0 {
			s.lookup = ops[i]
		}
		return nil
	case r.kind == initop.ReplyFailed && int(r.index) < len(ops):
		return s.failure(r, ops)
	case r.kind == initop.ReplyMalformed:
		return fmt.Errorf("the helper refused the message at operation %d (code %d): %w (%w)",
			r.index, r.code, unix.Errno(r.value), errdefs.ErrInternal)
	default:
		return fmt.Errorf("unexpected reply %d of the helper: %w", r.kind, errdefs.ErrInternal)
	}
}

func (s *stream) failure(r reply, ops []initop.Op) error {
	e := &OpError{Op: ops[r.index], Index: int(r.index), Errno: unix.Errno(r.value), extra: r.extra, lookup: s.lookup}
	for _, o := range ops[:r.index] {
		if isLookup(o) {
			e.lookup = o
		}
	}
	return e
}

func isLookup(o initop.Op) bool { return o.Code() == initop.CodeLookup }
