package task

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// expectTime is how long the shim stays for a container whose client does not
// connect. containerd takes some milliseconds from the start verb's answer to
// its connection; once it is connected, it may take its time.
const expectTime = 10 * time.Second

// Expect announces a container: its client is being told of this shim. The
// shim stays until the container was created or its client has asked for the
// shutdown; without a connection at most for expectTime. ErrUnavailable if the
// shim is ending.
func (s *Service) Expect(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errOver()
	}
	if t := s.expected[id]; t != nil {
		t.Stop()
	}
	s.expected[id] = time.AfterFunc(expectTime, func() { s.Unexpect(id) })
	return nil
}

// Unexpect says that an expected container does not come, as its client has
// given up. A shim that has nothing else to do ends then.
func (s *Service) Unexpect(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrived(id) {
		s.endIfIdle(false)
	}
}

// arrived ends the expectation of a container; false if there was none. It
// needs s.mu.
func (s *Service) arrived(id string) bool {
	t := s.expected[id]
	if t == nil {
		return false
	}
	t.Stop()
	delete(s.expected, id)
	return true
}

// endIfIdle ends the shim if there is nothing to stay for. It needs s.mu.
func (s *Service) endIfIdle(asked bool) {
	if len(s.tasks) == 0 && len(s.expected) == 0 && !s.over {
		s.over = s.options.Shutdown(asked)
	}
}

func errOver() error { return fmt.Errorf("the shim is ending: %w", errdefs.ErrUnavailable) }
