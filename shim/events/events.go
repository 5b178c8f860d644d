// Package events delivers a shim's events to containerd, each once, in the
// order in which they were published.
//
// containerd's own publisher sends from whatever goroutine publishes, sends
// again what failed after a delay, and is not waited for when the shim ends:
// so events of short containers overtake each other or are lost. Here one
// goroutine sends, and the shim drains the queue before it ends.
//
// An event is sent twice only if containerd went away before it answered.
package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"
	coreevents "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
)

const (
	// While containerd restarts, it is tried again after firstDelay, then
	// twice that, up to maxDelay.
	firstDelay = 20 * time.Millisecond
	maxDelay   = 2 * time.Second
	// maxQueue bounds the memory that events take while containerd is away:
	// about 300 bytes each.
	maxQueue = 100_000
)

// Queue holds the events that containerd has not taken yet. It implements the
// publishers of containerd's packages.
type Queue struct {
	client client

	mu      sync.Mutex // guards what follows
	pending []*types.Envelope
	changed chan struct{} // closed, and made anew, at each change
	closed  bool

	stop context.CancelFunc
	done chan struct{}
}

// NewQueue returns a queue for containerd's ttrpc address, the path of a unix
// socket. containerd need not be there.
func NewQueue(address string) (*Queue, error) {
	if address == "" {
		return nil, fmt.Errorf("events: no address of containerd (TTRPC_ADDRESS): %w", errdefs.ErrInvalidArgument)
	}
	ctx, stop := context.WithCancel(context.Background())
	q := &Queue{client: client{address: address}, changed: make(chan struct{}), stop: stop, done: make(chan struct{})}
	go q.run(ctx)
	return q, nil
}

// Publish queues an event. It does not wait for containerd. ctx carries the
// namespace. It fails with ErrResourceExhausted if containerd has taken no
// event for very long.
func (q *Queue) Publish(ctx context.Context, topic string, event coreevents.Event) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	data, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return fmt.Errorf("event %s: %w", topic, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("event %s: the queue is closed: %w", topic, errdefs.ErrUnavailable)
	}
	if len(q.pending) >= maxQueue {
		return fmt.Errorf("event %s: containerd takes no events, %d wait: %w", topic, maxQueue, errdefs.ErrResourceExhausted)
	}
	q.pending = append(q.pending, &types.Envelope{
		Timestamp: protobuf.ToTimestamp(time.Now()), // in the order of the queue
		Namespace: ns,
		Topic:     topic,
		Event:     data,
	})
	q.broadcast()
	return nil
}

// Drain waits until containerd has taken every event.
func (q *Queue) Drain(ctx context.Context) error {
	for {
		q.mu.Lock()
		left, changed := len(q.pending), q.changed
		q.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d events not delivered: %w", left, ctx.Err())
		}
	}
}

// Close ends the queue. What was not drained is lost.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.stop()
	<-q.done
	return q.client.close()
}

// broadcast needs q.mu.
func (q *Queue) broadcast() {
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *Queue) run(ctx context.Context) {
	defer close(q.done)
	for {
		e := q.next(ctx)
		if e == nil || !q.deliver(ctx, e) {
			return
		}
		q.mu.Lock()
		q.pending[0] = nil // the array lives on
		q.pending = q.pending[1:]
		q.broadcast()
		q.mu.Unlock()
	}
}

// next waits for an event; nil when the queue is closed.
func (q *Queue) next(ctx context.Context) *types.Envelope {
	for {
		q.mu.Lock()
		pending, changed := q.pending, q.changed
		q.mu.Unlock()
		if len(pending) > 0 {
			return pending[0]
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// deliver sends one event until containerd has taken or refused it; false if
// ctx ends first.
func (q *Queue) deliver(ctx context.Context, e *types.Envelope) bool {
	logger := log.G(ctx).WithField("topic", e.Topic)
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		err := q.client.forward(ctx, e)
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case errdefs.IsInvalidArgument(err), errdefs.IsResourceExhausted(err): // the latter: too long
			// It would be refused for ever, and hold up all that follow.
			logger.WithError(err).Error("containerd refuses an event")
			return true
		}
		logger.WithError(err).Debugf("containerd did not take an event, again in %s", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return false
		}
	}
}
