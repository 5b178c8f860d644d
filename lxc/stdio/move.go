package stdio

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// splicer moves pages from one pipe to another, see splice(2).
//
// Both pipes are made large when much comes, and small again when nothing has
// come for a while: what a user's pipes may hold counts against a limit (64
// MiB, see pipe(7)) beyond which the kernel gives processes of that user, root
// in other containers included, no more than two pages for a new pipe.
type splicer struct {
	in, out         int
	inSize, outSize int // before they were made large
	large           bool
}

const (
	// largePipe is what an unprivileged user may have, and halves the system
	// calls and thereby the CPU time against a quarter of it.
	largePipe = 1 << 20
	// muchAtOnce is what a pipe holds by default, nearly.
	muchAtOnce = 60 << 10
)

func newSplicer(in, out *os.File) *splicer { return &splicer{in: descriptor(in), out: descriptor(out)} }

func (s *splicer) move(limit int) (int, error) {
	if limit == 0 {
		return 0, errSourceEmpty
	}
	for {
		n, err := unix.Splice(s.in, nil, s.out, nil, limit, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case n > 0:
			if n >= muchAtOnce && !s.large {
				s.enlarge()
			}
			return int(n), nil
		case err == nil:
			return 0, io.EOF
		case err == unix.EAGAIN:
			if err := s.blocked(); err != nil {
				return 0, err
			}
		case err != unix.EINTR:
			return 0, fmt.Errorf("splice: %w", err)
		}
	}
}

func (s *splicer) busy() bool { return s.large }

func (s *splicer) enlarge() {
	s.large = true
	s.inSize, s.outSize = resizePipe(s.in, largePipe), resizePipe(s.out, largePipe)
}

// rest makes the pipes as they were. What has not been read yet may prevent it:
// then it is tried again after the next time that much comes.
func (s *splicer) rest() {
	s.large = false
	resizePipe(s.in, s.inSize)
	resizePipe(s.out, s.outSize)
}

// resizePipe returns the size before. That a size is refused does no harm.
func resizePipe(fd, size int) (before int) {
	before, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err == nil && size > 0 && before != size {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	}
	return before
}

// blocked tells which of the two ends was not ready, as EAGAIN does not. It
// returns nil if both are ready by now.
func (s *splicer) blocked() error {
	p := ready(unix.PollFd{Fd: int32(s.in), Events: unix.POLLIN}, unix.PollFd{Fd: int32(s.out), Events: unix.POLLOUT})
	if p[0].Revents == 0 {
		return errSourceEmpty
	}
	if p[1].Revents == 0 {
		return errDestinationFull
	}
	return nil
}

func (s *splicer) end() error { return nil }

// buffers are for the time that bytes need from a source to a destination; an
// idle stream holds none.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// pump moves bytes by read(2) and write(2), where splice cannot: from and to
// terminals, and to files opened for appending.
type pump struct {
	in, out int
	// exited is set for the output of a terminal: it says that the process
	// has ended, so that a terminal without output has come to its end.
	// Before, EIO (nobody has the terminal open) may pass.
	exited *atomic.Bool
	// lossy pumps drop what the destination refuses, instead of ending: a
	// process must not stop because its log's disk is full.
	lossy bool

	buf      *[64 << 10]byte // nil while nothing is under way
	from, to int             // what of buf is to be written
	lost     int
	lostErr  error
}

func (p *pump) move(limit int) (int, error) {
	if p.from < p.to {
		return 0, p.write()
	}
	n, err := p.fill(limit)
	if n == 0 {
		return 0, err
	}
	if err := p.write(); err != errDestinationFull {
		return n, err
	}
	return n, nil
}

// fill reads until the buffer is full or the source empty: a terminal gives
// no more than 4 KiB at a time.
func (p *pump) fill(limit int) (int, error) {
	if p.buf == nil {
		p.buf = buffers.Get().(*[64 << 10]byte)
	}
	p.from, p.to = 0, 0
	limit = min(limit, len(p.buf))
	var err error
	for p.to < limit && err == nil {
		var n int
		n, err = again(func() (int, error) { return unix.Read(p.in, p.buf[p.to:limit]) })
		if n > 0 {
			p.to += n
		} else if err == nil {
			err = io.EOF
		}
	}
	if p.to > 0 {
		return p.to, nil
	}
	p.release()
	return 0, p.readError(err)
}

func (p *pump) readError(err error) error {
	switch {
	case err == nil:
		return errSourceEmpty // nothing was asked for
	case err == unix.EAGAIN || (err == unix.EIO && p.exited != nil):
		if p.exited != nil && p.exited.Load() {
			return io.EOF
		}
		return errSourceEmpty
	case err == io.EOF:
		return err
	}
	return fmt.Errorf("read: %w", err)
}

func (p *pump) write() error {
	for p.from < p.to {
		n, err := again(func() (int, error) { return unix.Write(p.out, p.buf[p.from:p.to]) })
		if err == unix.EAGAIN {
			return errDestinationFull
		}
		if err != nil && !p.lossy {
			return fmt.Errorf("write: %w", err)
		}
		if err != nil {
			p.drop(err)
			break
		}
		p.from += n
	}
	p.release()
	return nil
}

func (p *pump) drop(err error) {
	if p.lostErr == nil {
		p.lostErr = err
	}
	p.lost += p.to - p.from
}

func (p *pump) release() {
	p.from, p.to = 0, 0
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
}

func (p *pump) busy() bool { return false }
func (p *pump) rest()      {}

func (p *pump) end() error {
	p.release()
	if p.lostErr == nil {
		return nil
	}
	return fmt.Errorf("%d bytes could not be written: %w", p.lost, p.lostErr)
}
