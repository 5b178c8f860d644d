package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// openTerminal opens what SetConsole will connect.
func (s *IO) openTerminal(ctx context.Context, stdin, stdout target) error {
	var err error
	if stdin.kind != kindNull {
		if s.source, err = openSource(stdin.path); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
	}
	if s.sink, err = s.terminalSink(ctx, stdout); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	return nil
}

func (s *IO) terminalSink(ctx context.Context, t target) (*sink, error) {
	switch t.kind {
	case kindNull:
		return openSink(ctx, target{kind: kindFIFO, path: os.DevNull})
	case kindBinary:
		l, err := s.logger(ctx, t, writing)
		if err != nil {
			return nil, err
		}
		return &sink{file: l.out}, nil
	}
	return openSink(ctx, t)
}

// SetConsole starts copying between the master end of the process's terminal
// and what Config names. The master becomes the IO's, even on failure. The
// slave must have been opened for the process already.
func (s *IO) SetConsole(master *os.File) error {
	defer closeAll(master)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sink == nil {
		return fmt.Errorf("no terminal is expected: %w", errdefs.ErrFailedPrecondition)
	}
	tty, err := duplicate(master)
	if err != nil {
		return err
	}
	in, err := duplicate(master)
	if err != nil {
		closeAll(tty)
		return err
	}
	s.tty = tty
	output := &copier{name: "terminal", src: tty}
	output.mover = &pump{in: descriptor(tty), out: descriptor(s.sink.file), exited: &s.exited, lossy: true}
	s.startOutput(output, s.sink)
	s.sink = nil
	if s.source == nil {
		closeAll(in)
		return nil
	}
	s.input = (&copier{
		name:  "terminal input",
		src:   s.source.file,
		dst:   in,
		mover: &pump{in: descriptor(s.source.file), out: descriptor(in), lossy: true},
		onEnd: func(c *copier, err error) { s.hangUp(c, output); s.inputEnded(c, err) },
	}).start()
	return nil
}

// hangUp ends the terminal when its input has come to the end: the processes
// on it get SIGHUP, as on the runc shim.
func (s *IO) hangUp(input, output *copier) {
	if !input.stopping.Load() {
		output.stop()
	}
}

// Resize sets the size of the terminal, in characters. Without one there is
// nothing to do, as on the runc shim.
func (s *IO) Resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty == nil {
		return nil
	}
	err := setSize(s.tty, width, height)
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("the terminal is closed: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}
