package shim

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/emptypb"
)

// counter is a service with a number of containers.
type counter struct {
	*lifetime
	containers int
}

func (s *counter) Shutdown(context.Context, *taskv3.ShutdownRequest) (*emptypb.Empty, error) {
	if s.containers == 0 {
		s.shutdown(true)
	}
	return &emptypb.Empty{}, nil
}

// ask asks for the shutdown, as containerd does.
func (s *counter) ask(t *testing.T) {
	_, err := s.Shutdown(t.Context(), nil)
	require.NoError(t, err)
}

func (s *counter) isOver() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// connect returns the server's end of n connections.
func (s *counter) connect(t *testing.T, n int) (conns []net.Conn) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer l.Close()
	for range n {
		client, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		conn, err := l.Accept()
		require.NoError(t, err)
		counted, _, err := s.Handshake(t.Context(), conn)
		require.NoError(t, err)
		t.Cleanup(func() { _ = counted.Close() })
		conns = append(conns, counted)
	}
	return conns
}

func newCounter(t *testing.T) *counter {
	s := &counter{lifetime: newLifetime(t.Context())}
	s.service = s
	return s
}

func TestLifetimeEndsOnTheOnlyConnection(t *testing.T) {
	s := newCounter(t)
	s.connect(t, 1)
	s.ask(t)
	assert.True(t, s.isOver())
	s.ask(t) // again
}

func TestLifetimeLastsWithAContainer(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 1)
	s.containers = 1
	s.ask(t)
	require.NoError(t, conns[0].Close())
	assert.False(t, s.isOver(), "nobody asked while there was none")
}

func TestLifetimeLastsUntilTheOthersHaveHungUp(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 3)
	s.ask(t)
	for i, c := range conns {
		assert.False(t, s.isOver(), i)
		require.NoError(t, c.Close())
	}
	assert.True(t, s.isOver())
}

func TestLifetimeLastsWithAContainerThatCameInBetween(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 2)
	s.ask(t)
	require.NoError(t, conns[0].Close())
	s.containers = 1
	require.NoError(t, conns[1].Close()) // containerd restarts
	assert.False(t, s.isOver())
	s.containers = 0
	s.connect(t, 1)
	s.ask(t)
	assert.True(t, s.isOver())
}

// The shim itself has noticed that nobody comes.
func TestLifetimeEndsByItselfOnlyWithoutConnections(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 1)
	assert.False(t, s.shutdown(false), "who is connected may still ask for something")
	assert.False(t, s.isOver())
	require.NoError(t, conns[0].Close())
	assert.True(t, s.isOver())

	s = newCounter(t)
	assert.True(t, s.shutdown(false))
	assert.True(t, s.isOver())
}

func TestConnectionsCloseOnce(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 2)
	require.NoError(t, conns[0].Close())
	assert.Error(t, conns[0].Close())
	assert.Equal(t, 1, s.open)
}

func TestWaitEndsWithTheLastConnection(t *testing.T) {
	s := newCounter(t)
	conns := s.connect(t, 2)
	done := make(chan struct{})
	go func() { defer close(done); s.wait(time.Hour) }()
	for _, c := range conns {
		select {
		case <-done:
			t.Fatal("does not wait")
		default:
		}
		require.NoError(t, c.Close())
	}
	<-done
	s.connect(t, 1)
	s.wait(time.Millisecond) // and not for ever
}

func TestHandshakeRefusesWhatIsNoUnixSocket(t *testing.T) {
	s := newCounter(t)
	a, b := net.Pipe()
	defer b.Close()
	_, _, err := s.Handshake(t.Context(), a)
	require.Error(t, err)
	assert.Zero(t, s.open)
}
