package stdio

import (
	"context"
	"fmt"
	"os"
)

func (s *IO) open(ctx context.Context) error {
	stdin, err := parseInput("stdin", s.config.Stdin)
	if err != nil {
		return err
	}
	stdout, err := parseOutput("stdout", s.config.Stdout)
	if err != nil {
		return err
	}
	stderr, err := parseOutput("stderr", s.config.Stderr)
	if err != nil {
		return err
	}
	if s.null, err = openBlocking(os.DevNull, os.O_RDWR); err != nil {
		return err
	}
	s.process = [3]*os.File{s.null, s.null, s.null}
	if s.config.Terminal {
		return s.openTerminal(ctx, stdin, stdout)
	}
	if stderr.kind == kindNull && (stdout.kind == kindFile || stdout.kind == kindBinary) {
		stderr = stdout
	}
	if err := s.openInput(stdin); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	if err := s.openOutput(ctx, 1, "stdout", stdout); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if err := s.openOutput(ctx, 2, "stderr", stderr); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	return nil
}

func (s *IO) openInput(t target) error {
	if t.kind == kindNull {
		return nil
	}
	source, err := openSource(t.path)
	if err != nil {
		return err
	}
	s.source = source
	r, w, err := newPipe("stdin", writing, s.config.UID, s.config.GID)
	if err != nil {
		return err
	}
	s.process[0] = r
	var m mover = &pump{in: descriptor(source.file), out: descriptor(w)}
	if source.held != nil {
		m = newSplicer(source.file, w)
	}
	s.input = (&copier{name: "stdin", src: source.file, dst: w, mover: m, onEnd: s.inputEnded}).start()
	return nil
}

// inputEnded runs when the process has got all, or does not want more. In that
// case the FIFO remains open until the process ends: a client that writes to
// it is to wait as on the runc shim, and not to fail or, when it opens the
// FIFO, to hang.
func (s *IO) inputEnded(c *copier, err error) {
	closeAll(c.dst)
	if err != nil {
		s.log.WithError(err).Debug("stdin is not read any more")
		<-c.stopped
	}
	s.source.close()
}

// openOutput connects the process's descriptor fd.
func (s *IO) openOutput(ctx context.Context, fd int, name string, t target) error {
	switch t.kind {
	case kindNull:
		return nil
	case kindBinary:
		l, err := s.logger(ctx, t, neither)
		if err != nil {
			return err
		}
		s.process[fd] = [3]*os.File{1: l.out, 2: l.err}[fd]
		return nil
	}
	sink, err := openSink(ctx, t)
	if err != nil {
		return err
	}
	r, w, err := newPipe(name, reading, s.config.UID, s.config.GID)
	if err != nil {
		closeAll(sink.file, sink.held)
		return err
	}
	s.process[fd] = w
	s.startOutput(&copier{name: name, src: r, mover: sink.moverFrom(r)}, sink)
	return nil
}

// logger returns the logger of a URI. stdout and stderr with the same URI have
// one in common.
func (s *IO) logger(ctx context.Context, t target, ours end) (*logger, error) {
	if l := s.loggers[t.uri]; l != nil {
		return l, nil
	}
	l, err := startLogger(ctx, t, s.config, ours)
	if err == nil {
		s.loggers[t.uri] = l
	}
	return l, err
}

func (s *IO) startOutput(c *copier, to *sink) {
	c.dst, c.flush = to.file, true
	c.onEnd = func(c *copier, err error) {
		if err != nil {
			s.log.WithError(err).Warnf("output of the container is lost: %s", c.name)
		}
		closeAll(c.src)
		linger, err := to.close()
		if err != nil {
			s.log.WithError(err).Warnf("output of the container may be lost: %s", c.name)
		}
		if linger {
			s.lingering.Go(func() { to.linger(s.alive) })
		}
	}
	s.outputs = append(s.outputs, c.start())
}
