package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/emptypb"
)

var _ shim.Publisher = (*Queue)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// containerd is its events service, which can go away and come back.
type containerd struct {
	t    *testing.T
	path string

	mu     sync.Mutex
	got    []*eventsapi.ForwardRequest
	answer func(*eventsapi.ForwardRequest) error // nil takes it
	server *ttrpc.Server
	conns  []net.Conn
}

func newContainerd(t *testing.T) *containerd {
	c := &containerd{t: t, path: filepath.Join(t.TempDir(), "c.sock.ttrpc")}
	t.Cleanup(c.stop)
	return c
}

func (c *containerd) start() *containerd {
	l, err := net.Listen("unix", c.path)
	require.NoError(c.t, err)
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(c))
	require.NoError(c.t, err)
	eventsapi.RegisterTTRPCEventsService(server, c)
	go func() { _ = server.Serve(context.Background(), l) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = server
	return c
}

// Handshake notes the connection.
func (c *containerd) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return conn, nil, nil
}

// stop cuts every connection, as a daemon that ends.
func (c *containerd) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		assert.NoError(c.t, c.server.Close())
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.server, c.conns = nil, nil
		_ = os.Remove(c.path)
	}
}

func (c *containerd) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	answer := c.answer
	c.mu.Unlock()
	if answer != nil {
		if err := answer(r); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, r)
	return &emptypb.Empty{}, nil
}

// ids are the containers of the events that were taken.
func (c *containerd) ids() (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.got {
		v, err := typeurl.UnmarshalAny(r.Envelope.Event)
		require.NoError(c.t, err)
		ids = append(ids, v.(*eventstypes.TaskStart).ContainerID)
	}
	return ids
}

func newQueue(t *testing.T, address string) *Queue {
	q, err := NewQueue(address)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, q.Close()) })
	return q
}

var ctx = namespaces.WithNamespace(context.Background(), "ns")

// publish publishes one event for each number from..to-1.
func publish(t *testing.T, q *Queue, from, to int) (ids []string) {
	for i := from; i < to; i++ {
		id := fmt.Sprint(i)
		require.NoError(t, q.Publish(ctx, "/tasks/start", &eventstypes.TaskStart{ContainerID: id}))
		ids = append(ids, id)
	}
	return ids
}

func drain(t *testing.T, q *Queue) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, q.Drain(ctx))
}

func TestEventsArriveOnceInTheirOrder(t *testing.T) {
	c := newContainerd(t).start()
	q := newQueue(t, c.path)
	want := publish(t, q, 0, 500)
	drain(t, q)
	assert.Equal(t, want, c.ids())
}

func TestAnEventSaysWhenWhereAndWhat(t *testing.T) {
	c := newContainerd(t).start()
	q := newQueue(t, "unix://"+c.path)
	before := time.Now()
	publish(t, q, 7, 8)
	drain(t, q)
	e := c.got[0].Envelope
	assert.Equal(t, "/tasks/start", e.Topic)
	assert.Equal(t, "ns", e.Namespace)
	assert.Equal(t, "containerd.events.TaskStart", e.Event.TypeUrl)
	assert.WithinRange(t, e.Timestamp.AsTime(), before, time.Now())
	assert.Equal(t, []string{"7"}, c.ids())
}

func TestPublishDoesNotWaitForContainerd(t *testing.T) {
	c := newContainerd(t)
	release := make(chan struct{})
	c.answer = func(*eventsapi.ForwardRequest) error { <-release; return nil }
	q := newQueue(t, c.start().path)
	want := publish(t, q, 0, 100) // would not come back

	soon, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err := q.Drain(soon)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "100 events not delivered")

	close(release)
	drain(t, q)
	assert.Equal(t, want, c.ids())
}

func TestEventsWaitForAContainerdThatStartsLater(t *testing.T) {
	c := newContainerd(t)
	q := newQueue(t, c.path)
	want := publish(t, q, 0, 3)
	c.start()
	drain(t, q)
	assert.Equal(t, want, c.ids())
}

func TestOrderHoldsWhenContainerdRestarts(t *testing.T) {
	c := newContainerd(t).start()
	q := newQueue(t, c.path)
	var want []string
	for i := range 5 {
		want = append(want, publish(t, q, 10*i, 10*i+5)...)
		drain(t, q)
		c.stop()
		want = append(want, publish(t, q, 10*i+5, 10*i+10)...)
		c.start()
	}
	drain(t, q)
	// The daemon may have gone between taking an event and saying so.
	assert.Equal(t, want, slices.Compact(c.ids()))
}

// The daemon dies with a request in its hands: that one comes again.
func TestAnEventThatWasNotAnsweredIsSentAgain(t *testing.T) {
	c := newContainerd(t)
	asked, release := make(chan struct{}), make(chan struct{})
	var second atomic.Bool
	c.answer = func(*eventsapi.ForwardRequest) error {
		if !second.Swap(true) {
			close(asked)
			<-release
		}
		return nil
	}
	q := newQueue(t, c.start().path)
	want := publish(t, q, 0, 3)
	<-asked
	c.stop()
	c.start()
	drain(t, q)
	assert.Equal(t, want, c.ids())
	close(release) // the first daemon's handler ends
	require.Eventually(t, func() bool { return len(c.ids()) == 4 }, 10*time.Second, time.Millisecond)
}

func TestAnErrorOfContainerdIsTriedAgain(t *testing.T) {
	c := newContainerd(t)
	var tries int
	c.answer = func(*eventsapi.ForwardRequest) error {
		if tries++; tries < 3 {
			return errdefs.ErrUnavailable
		}
		return nil
	}
	q := newQueue(t, c.start().path)
	want := publish(t, q, 0, 2)
	drain(t, q)
	assert.Equal(t, want, c.ids())
	assert.Equal(t, 4, tries)
}

func TestARefusedEventDoesNotHoldUpTheOthers(t *testing.T) {
	c := newContainerd(t)
	c.answer = func(r *eventsapi.ForwardRequest) error {
		if r.Envelope.Topic == "bad" {
			return errdefs.ErrInvalidArgument
		}
		return nil
	}
	q := newQueue(t, c.start().path)
	require.NoError(t, q.Publish(ctx, "bad", &eventstypes.TaskStart{ContainerID: "x"}))
	want := publish(t, q, 0, 2)
	drain(t, q)
	assert.Equal(t, want, c.ids())
}

func TestPublishersInParallelKeepTheirOwnOrder(t *testing.T) {
	c := newContainerd(t).start()
	q := newQueue(t, c.path)
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := range 50 {
				assert.NoError(t, q.Publish(ctx, "/tasks/start", &eventstypes.TaskStart{ContainerID: fmt.Sprint(p), Pid: uint32(i)}))
			}
		})
	}
	wg.Wait()
	drain(t, q)
	next := map[string]uint32{}
	for i, r := range c.got {
		var e eventstypes.TaskStart
		require.NoError(t, typeurl.UnmarshalTo(r.Envelope.Event, &e))
		assert.Equal(t, next[e.ContainerID], e.Pid)
		next[e.ContainerID]++
		if i > 0 {
			assert.False(t, r.Envelope.Timestamp.AsTime().Before(c.got[i-1].Envelope.Timestamp.AsTime()))
		}
	}
	assert.Len(t, c.got, 400)
}

func TestCloseDoesNotWaitForContainerd(t *testing.T) {
	c := newContainerd(t)
	release := make(chan struct{})
	defer close(release)
	asked := make(chan struct{}, 1)
	c.answer = func(*eventsapi.ForwardRequest) error { asked <- struct{}{}; <-release; return nil }
	for name, q := range map[string]*Queue{
		"that hangs":     newQueue(t, c.start().path),
		"that is absent": newQueue(t, filepath.Join(t.TempDir(), "none")),
	} {
		t.Run(name, func(t *testing.T) {
			publish(t, q, 0, 1)
			if name == "that hangs" {
				<-asked
			}
			require.NoError(t, q.Close())
			err := q.Publish(ctx, "/tasks/start", &eventstypes.TaskStart{})
			require.ErrorIs(t, err, errdefs.ErrUnavailable)
		})
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	q := newQueue(t, filepath.Join(t.TempDir(), "none"))
	publish(t, q, 0, maxQueue)
	err := q.Publish(ctx, "/tasks/start", &eventstypes.TaskStart{})
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	assert.Len(t, q.pending, maxQueue)
}

func TestWhatCannotBePublishedIsAnError(t *testing.T) {
	q := newQueue(t, filepath.Join(t.TempDir(), "none"))
	for name, tt := range map[string]struct {
		ctx   context.Context
		event events.Event
		want  string
	}{
		"no namespace": {context.Background(), &eventstypes.TaskStart{}, "namespace is required"},
		"no message":   {ctx, errors.New("x"), "event topic: "},
	} {
		t.Run(name, func(t *testing.T) {
			assert.ErrorContains(t, q.Publish(tt.ctx, "topic", tt.event), tt.want)
		})
	}
	_, err := NewQueue("")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}
