package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// Stdio is what a process is connected to: FIFOs, unless URIs are given.
type Stdio struct {
	Stdin    io.Reader // nil: no stdin
	Terminal bool
	Null     bool   // all of it nowhere
	Stdout   string // URI instead of a FIFO
	Stderr   string

	out, err lockedBuffer
	eof      chan struct{} // Stdin was read to its end
	io       cio.IO
}

// Out is what was written to stdout so far.
func (s *Stdio) Out() string { return s.out.String() }

// Err is what was written to stderr so far.
func (s *Stdio) Err() string { return s.err.String() }

// Wait waits for the end of stdout and stderr.
func (s *Stdio) Wait(ctx context.Context) error {
	if s.io == nil {
		return nil
	}
	done := make(chan struct{})
	go func() { s.io.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stdout and stderr did not end: %w", ctx.Err())
	}
}

// AwaitOut waits until stdout has text in it.
func (s *Stdio) AwaitOut(ctx context.Context, text string) error {
	for {
		got, more := s.out.look()
		if strings.Contains(got, text) {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("stdout has no %q but %q: %w", text, got, ctx.Err())
		}
	}
}

// Clone is a Stdio with the same settings, for another process.
func (s *Stdio) Clone() *Stdio {
	return &Stdio{Stdin: s.Stdin, Terminal: s.Terminal, Null: s.Null, Stdout: s.Stdout, Stderr: s.Stderr}
}

func (s *Stdio) open(w *World, id string) (cio.Config, error) {
	if s.Null || s.Stdout != "" || s.Stderr != "" {
		return cio.Config{Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal}, nil
	}
	var stdin io.Reader
	if s.Stdin != nil {
		s.eof = make(chan struct{})
		stdin = &eofReader{Reader: s.Stdin, eof: s.eof}
	}
	opts := []cio.Opt{cio.WithStreams(stdin, &s.out, &s.err), cio.WithFIFODir(w.FIFODir())}
	if s.Terminal {
		opts = append(opts, cio.WithTerminal)
	}
	opened, err := cio.NewCreator(opts...)(id)
	if err != nil {
		return cio.Config{}, err
	}
	s.io = opened
	return opened.Config(), nil
}

// close releases the FIFOs; those of a process that never started may have
// nobody at the other end.
func (s *Stdio) close() error {
	if s.io == nil {
		return nil
	}
	s.io.Cancel()
	return s.io.Close()
}

type eofReader struct {
	io.Reader
	once sync.Once
	eof  chan struct{}
}

func (r *eofReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		r.once.Do(func() { close(r.eof) })
	}
	return n, err
}

// lockedBuffer is a bytes.Buffer for one writer and readers who cannot wait.
type lockedBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed at the next write, if anybody asked
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
	return b.buf.Write(p)
}

// look returns what was written, and a channel that tells of more.
func (b *lockedBuffer) look() (string, chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.more == nil {
		b.more = make(chan struct{})
	}
	return b.buf.String(), b.more
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
