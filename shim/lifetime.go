package shim

import (
	"context"
	"net"
	"sync"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// lifetime decides when the shim has done its work. containerd has a
// connection for each container, from before Create to after Delete, and asks
// for the shutdown after every Delete: so a shim without containers must stay
// as long as another connection is open, on which a Create may be coming.
//
// It is the server's handshaker, which sees every connection.
type lifetime struct {
	ctx     context.Context
	service interface {
		Shutdown(context.Context, *taskAPI.ShutdownRequest) (*emptypb.Empty, error)
	}
	over chan struct{} // closed when the shim is to end

	mu     sync.Mutex // guards what follows
	open   int        // connections
	asked  bool       // for the shutdown, and put off
	ended  bool
	hungUp chan struct{} // closed, and made anew, when a connection ends
}

func newLifetime(ctx context.Context) *lifetime {
	return &lifetime{ctx: ctx, over: make(chan struct{}), hungUp: make(chan struct{})}
}

// shutdown is called by the service while it has no container. If a client
// asked for it, the last open connection is that client's. It returns false
// when it is put off until nobody is connected.
func (l *lifetime) shutdown(asked bool) (over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open > 1 || (l.open > 0 && !asked) {
		l.asked = true
		return false
	}
	if !l.ended {
		l.ended = true
		close(l.over)
	}
	return true
}

// Handshake refuses other users, and counts.
func (l *lifetime) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, peer, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	return &countedConn{Conn: conn, closed: sync.OnceFunc(l.closed)}, peer, nil
}

// closed notes the end of a connection. After the last one a shutdown that was
// put off is asked for again: the service knows whether a container has come.
func (l *lifetime) closed() {
	l.mu.Lock()
	l.open--
	again := l.asked && l.open == 0
	if again {
		l.asked = false
	}
	close(l.hungUp)
	l.hungUp = make(chan struct{})
	l.mu.Unlock()
	if again {
		if _, err := l.service.Shutdown(l.ctx, &taskAPI.ShutdownRequest{}); err != nil {
			log.G(l.ctx).WithError(err).Error("shutdown")
		}
	}
}

// wait waits until every client has hung up, at most for patience: they may
// not have read their last answers yet.
func (l *lifetime) wait(patience time.Duration) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		open, hungUp := l.open, l.hungUp
		l.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-hungUp:
		case <-timeout.C:
			return
		}
	}
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
