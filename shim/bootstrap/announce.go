package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// The ttrpc service by which the start verb tells the shim of a group that a
// container is coming. Without it the shim could end between the verb's answer
// and containerd's connection, as the group's last container may be deleted in
// that moment.
const (
	announceService = "io.nexcage.Bootstrap"
	announceMethod  = "Expect"
	// announceTimeout bounds the wait for a shim that does not answer.
	announceTimeout = 2 * time.Second
)

// errEnding says that the shim at an address does not take containers any more.
var errEnding = errors.New("the shim is ending")

// RegisterExpect serves announcements. expect makes the shim stay for the
// container, or returns an errdefs.ErrUnavailable.
func RegisterExpect(server *ttrpc.Server, expect func(id string) error) {
	server.RegisterService(announceService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		announceMethod: func(_ context.Context, unmarshal func(any) error) (any, error) {
			var r taskAPI.ConnectRequest
			if err := unmarshal(&r); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, errgrpc.ToGRPC(expect(r.ID))
		},
	}})
}

// announce tells the shim at address that a container is coming; errEnding if
// it is too late for that.
func announce(ctx context.Context, address, id string) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", pathOf(address))
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return errEnding
	}
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	err = client.Call(ctx, announceService, announceMethod, &taskAPI.ConnectRequest{ID: id}, &emptypb.Empty{})
	switch native := errgrpc.ToNative(err); {
	case err == nil, errdefs.IsNotImplemented(native): // a shim of an older version
		return nil
	case errdefs.IsUnavailable(native), errors.Is(err, ttrpc.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errEnding
	default:
		return fmt.Errorf("tell the shim at %s of container %s: %w", address, id, native)
	}
}
