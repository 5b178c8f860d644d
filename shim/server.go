package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/shim/bootstrap"
	"github.com/cageforge/containerd-shim-nexcage/shim/events"
	"github.com/cageforge/containerd-shim-nexcage/shim/task"
)

const (
	// ttrpcAddress is the environment variable with the socket that events go to.
	ttrpcAddress = "TTRPC_ADDRESS"
	// drainTimeout bounds the wait for containerd to take the last events.
	drainTimeout = 5 * time.Second
	// answerTimeout bounds the wait for clients to read their last answers and
	// to hang up.
	answerTimeout = 250 * time.Millisecond
	// ioTimeout bounds the wait for loggers that do not end by themselves: they
	// are killed after 12 s.
	ioTimeout = 15 * time.Second
)

// serve serves the task API until the last container is gone.
func (c *command) serve(ctx context.Context) error {
	listener, err := c.listen()
	if err != nil {
		return err
	}
	defer listener.Close() // and so unlinked, whatever fails
	if err := c.setUp(); err != nil {
		return err
	}
	signals, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	go child.Reap(ctx)
	dumpOnSignal(ctx)
	s, err := newServer(ctx, c.namespace, c.address)
	if err != nil {
		return err
	}
	if err := s.service.Expect(c.id); err != nil {
		return err
	}
	if c.socket == "" {
		go c.awaitAnswer(s.service)
	}
	return s.run(ctx, listener, signals.Done())
}

// setUp makes the process what a shim is.
func (c *command) setUp() error {
	debug.SetGCPercent(40) // a shim is idle most of its life: memory counts
	catchSIGPIPE()
	if err := reaper.SetSubreaper(1); err != nil {
		return err
	}
	return c.openLog()
}

// server is the task service with what is around it.
type server struct {
	queue   *events.Queue
	life    *lifetime
	service *task.Service
	ttrpc   *ttrpc.Server
}

func newServer(ctx context.Context, namespace, address string) (*server, error) {
	s := &server{life: newLifetime(ctx)}
	var err error
	if s.queue, err = events.NewQueue(os.Getenv(ttrpcAddress)); err != nil {
		return nil, err
	}
	s.service, err = task.New(ctx, task.Options{Namespace: namespace, Address: address, Publisher: s.queue, Shutdown: s.life.shutdown})
	if err != nil {
		return nil, err
	}
	s.life.service = s.service
	s.ttrpc, err = ttrpc.NewServer(
		ttrpc.WithServerHandshaker(s.life),
		ttrpc.WithUnaryServerInterceptor(newTrimmer().intercept),
	)
	if err != nil {
		return nil, err
	}
	registerTask(s.ttrpc, s.service)
	bootstrap.RegisterExpect(s.ttrpc, s.service.Expect)
	return s, nil
}

// run serves until the last container is gone, or a signal comes.
func (s *server) run(ctx context.Context, listener net.Listener, signals <-chan struct{}) error {
	served := make(chan error, 1)
	go func() { served <- s.ttrpc.Serve(ctx, listener) }()
	over := false
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-signals:
	case <-s.life.over:
		over = true
	}
	// The socket goes first, so that nobody new comes.
	err := listener.Close()
	<-served
	err = errors.Join(err, finish(s.service, s.queue))
	s.life.wait(answerTimeout)
	err = errors.Join(err, s.ttrpc.Close())
	if !over { // the containers go on writing
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return errors.Join(err, s.service.AwaitIO(ctx))
}

// finish delivers every event.
func finish(service *task.Service, queue *events.Queue) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return errors.Join(service.Close(ctx), queue.Drain(ctx), queue.Close())
}

// awaitAnswer waits until containerd has this shim's address. If the start verb
// was killed before, nobody comes.
func (c *command) awaitAnswer(service *task.Service) {
	f := os.NewFile(bootstrap.FDAnswered, "answered")
	defer f.Close()
	if n, _ := f.Read(make([]byte, 1)); n == 0 {
		service.Unexpect(c.id)
	}
}

// listen returns the socket that the start verb has made; it is unlinked when
// it is closed.
func (c *command) listen() (net.Listener, error) {
	if c.socket != "" {
		return net.Listen("unix", c.socket)
	}
	unix.CloseOnExec(bootstrap.FDAnswered)
	f := os.NewFile(bootstrap.FDSocket, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor 3: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	return l, nil
}

// catchSIGPIPE lets the shim live on when containerd does not read its log any
// more. Ignoring the signal would do so, too, but every child would inherit
// that: a handler is reset by execve(2).
func catchSIGPIPE() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGPIPE) // what does not fit into the channel is dropped
}
