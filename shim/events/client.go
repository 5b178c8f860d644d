package events

import (
	"context"
	"errors"
	"net"
	"strings"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
)

// client is a connection to containerd's events service, made when it is
// needed. It is for one goroutine.
type client struct {
	address string
	conn    *ttrpc.Client // nil if there is none
}

// forward sends one event, and waits for the answer without a limit: as long
// as the connection stands containerd has the event, and another try could
// only double it. Errors that containerd answered are of errdefs' classes.
func (c *client) forward(ctx context.Context, e *types.Envelope) error {
	if c.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(c.address, "unix://"))
		if err != nil {
			return err
		}
		c.conn = ttrpc.NewClient(conn)
	}
	ctx = namespaces.WithNamespace(ctx, e.Namespace)
	_, err := eventsapi.NewTTRPCEventsClient(c.conn).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if _, answered := status.FromError(err); !answered {
		return errors.Join(err, c.close())
	}
	return errgrpc.ToNative(err)
}

func (c *client) close() error {
	if c.conn == nil {
		return nil
	}
	conn := c.conn
	c.conn = nil
	return conn.Close()
}
