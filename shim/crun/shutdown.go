package crun

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/pkg/shutdown"
)

// innerShutdown is what containerd's task service takes for the shutdown of
// the process. The service asks for it when its last container is deleted,
// but the process may have others; so only finish ends anything.
type innerShutdown struct {
	done chan struct{}

	mu        sync.Mutex
	callbacks []func(context.Context) error
	finished  bool
	err       error // of the callbacks
}

var _ shutdown.Service = (*innerShutdown)(nil)

func newInnerShutdown() *innerShutdown {
	return &innerShutdown{done: make(chan struct{})}
}

// Shutdown does nothing: the owner of the process calls Service.Close.
func (*innerShutdown) Shutdown() {}

// RegisterCallback keeps f for the end.
func (s *innerShutdown) RegisterCallback(f func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callbacks = append(s.callbacks, f)
}

// Done is closed at the end, after the callbacks.
func (s *innerShutdown) Done() <-chan struct{} { return s.done }

// Err is nil until Done is closed, and then shutdown.ErrShutdown or the error
// of a callback.
func (s *innerShutdown) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.finished:
		return nil
	case s.err != nil:
		return s.err
	}
	return shutdown.ErrShutdown
}

// finish runs the callbacks and closes Done, once.
func (s *innerShutdown) finish(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return
	}
	s.finished = true
	var errs []error
	for _, f := range s.callbacks {
		// The service removes the shim's socket, which may be gone already.
		if err := f(ctx); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	s.err = errors.Join(errs...)
	close(s.done)
}

func (s *innerShutdown) callbackError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
