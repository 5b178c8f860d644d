// Package stdio connects the stdin, stdout and stderr of a container's process
// with what containerd asked for: FIFOs, files, a logging process, or nothing;
// through pipes of its own, or a terminal.
//
// It is for the LXC backend's init and exec processes, and behaves as
// containerd's runc shim does, which documents the URIs only by its code
// (cmd/containerd-shim-runc-v2/process/io.go, runc/platform.go). It does not
// make terminals, and does not start the process.
//
// Between a process and containerd's FIFO there is always a pipe of ours: it
// belongs to the process's user, who can open /dev/stdout again, and its end
// tells when all has been written. The kernel moves the pages from one to the
// other (splice(2)), nothing is copied.
package stdio

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
)

// Config says what a process's stdio is connected with.
type Config struct {
	ID, Namespace string // of the container, for loggers

	// URIs: a path or fifo://path of a FIFO; for output also file://path
	// (created, appended to), binary://path?key=value or binary-v2:// (a
	// logger). Empty is /dev/null, but an empty Stderr beside a file or
	// logger goes where Stdout goes.
	Stdin, Stdout, Stderr string

	// Terminal: SetConsole follows, and there is no Stderr.
	Terminal bool

	UID, GID uint32 // owner of the pipes, on the host

	// Open counts what Open has begun and Done has not ended. A shim waits
	// for it before it ends, as nobody else ends a logger that does not end
	// by itself. It may be nil.
	Open *sync.WaitGroup
}

// IO is the stdio of one process. Its methods may be called at the same time.
type IO struct {
	config Config
	log    *log.Entry

	process [3]*os.File // the process's stdin, stdout and stderr
	null    *os.File    // those of them that are not asked for
	loggers map[string]*logger

	mu      sync.Mutex
	outputs []*copier
	input   *copier // nil without stdin
	source  *source // of the input
	sink    *sink   // of the terminal's output, before SetConsole
	tty     *os.File
	exited  atomic.Bool // the process has ended

	alive     context.Context // until Close
	end       context.CancelFunc
	lingering sync.WaitGroup // FIFOs that wait for a reader

	closing  sync.Once
	closeErr error
	gone     chan struct{}
}

// closeTimeout bounds how long Close waits for a write to a file.
const closeTimeout = 5 * time.Second

// Open opens what c names, and starts copying unless there is a terminal. As a
// FIFO for output must have a reader, Open waits for one, at most 30 s or
// until ctx is done. A URI that cannot be is an errdefs.ErrInvalidArgument
// that names the field.
func Open(ctx context.Context, c Config) (*IO, error) {
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &IO{
		config:  c,
		log:     log.G(ctx),
		loggers: map[string]*logger{},
		alive:   alive,
		end:     end,
		gone:    make(chan struct{}),
	}
	if c.Open != nil {
		c.Open.Add(1)
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Files returns what is to become the process's descriptors 0, 1 and 2. They
// remain the IO's own. With a terminal it is the terminal instead, and they
// are /dev/null.
func (s *IO) Files() (stdin, stdout, stderr *os.File) {
	return s.process[0], s.process[1], s.process[2]
}

// CloseProcessEnds closes what Files returns, once the process has it: only
// then the end of the process is the end of its output.
func (s *IO) CloseProcessEnds() {
	closeAll(s.null)
	closeAll(s.process[:]...)
	for _, l := range s.loggers {
		closeAll(l.err)
		if !s.config.Terminal {
			closeAll(l.out)
		}
	}
}

// CloseStdin gives up our hold on stdin: the process sees the end of it as soon
// as no client has the FIFO open, and has got what was written before. On a
// terminal the end is a hang-up. Without a stdin there is nothing to do.
func (s *IO) CloseStdin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source != nil {
		closeAll(s.source.held)
	}
	return nil
}

// Drain is to be called as soon as the process has ended. It ends stdin, and
// waits until all output of the process has been handed over. Descendants of
// the process may hold its stdout open, and a reader may be stuck: then Drain
// returns when ctx is done, with its error. The descendants' output is
// copied until Close.
//
// A terminal comes to its end when the process has, as on the runc shim.
func (s *IO) Drain(ctx context.Context) error {
	s.CloseProcessEnds()
	s.mu.Lock()
	s.exited.Store(true)
	if s.input != nil {
		s.input.stop()
	}
	outputs := slices.Clone(s.outputs)
	s.mu.Unlock()

	var errs []error
	for _, c := range outputs {
		c.wake()
		errs = append(errs, c.wait(ctx))
	}
	return errors.Join(errs...)
}

// Close ends all copying and closes everything. What the process has written
// before is still handed over as far as its reader takes it without delay. A
// logger has 2 s to end by itself before it gets SIGTERM and Close returns.
func (s *IO) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

// Done is closed when Close was called and the logger, if any, is gone; which
// takes 12 s at most.
func (s *IO) Done() <-chan struct{} { return s.gone }

func (s *IO) close() error {
	s.CloseProcessEnds()
	err := s.stopCopiers()
	s.end()
	s.lingering.Wait()
	var ends []<-chan struct{}
	for _, l := range s.loggers {
		ends = append(ends, l.stop())
	}
	go func() {
		for _, end := range ends {
			<-end
		}
		close(s.gone)
		if s.config.Open != nil {
			s.config.Open.Done()
		}
	}()
	return err
}

// stopCopiers also closes what waits for a terminal that never came.
func (s *IO) stopCopiers() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	copiers := s.takeCopiers()
	for _, c := range copiers {
		c.stop()
	}
	var errs []error
	for _, c := range copiers {
		if err := c.wait(ctx); ctx.Err() != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *IO) takeCopiers() []*copier {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sink != nil {
		closeAll(s.sink.file, s.sink.held)
		s.sink = nil
	}
	if s.input == nil && s.source != nil {
		s.source.close()
	}
	copiers := slices.Clone(s.outputs)
	if s.input != nil {
		copiers = append(copiers, s.input)
	}
	return copiers
}
