// Package metadata asks containerd what it knows of a container and a runtime
// is not told: its image and its labels. It is for what people are shown;
// nothing depends on the answer.
//
// The one call is made by hand, over HTTP/2 (RFC 9113) as gRPC has it: the shim
// is built without gRPC's library, whose size every shim would pay for.
package metadata

import (
	"context"
	"fmt"
	"net"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// Container is what containerd knows.
type Container struct {
	Image  string // as the client named it; "" without one
	Labels map[string]string
}

const getContainer = "/containerd.services.containers.v1.Containers/Get"

// Get asks the containerd at address, the path of its gRPC socket, for a
// container. ctx must have a deadline.
func Get(ctx context.Context, address, namespace, id string) (*Container, error) {
	request, err := proto.Marshal(&containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, strings.TrimPrefix(address, "unix://"), namespace, getContainer, request)
	if err != nil {
		return nil, fmt.Errorf("ask containerd at %s for container %s: %w", address, id, err)
	}
	var r containersapi.GetContainerResponse
	if err := proto.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("containerd's answer about container %s: %w", id, err)
	}
	return &Container{Image: r.GetContainer().GetImage(), Labels: r.GetContainer().GetLabels()}, nil
}

// call makes a unary call on a connection of its own.
func call(ctx context.Context, socket, namespace, method string, request []byte) ([]byte, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil, fmt.Errorf("a call without deadline: %w", errdefs.ErrInvalidArgument)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := conn.Write(opening(namespace, method, request)); err != nil {
		return nil, err
	}
	return newStream(conn).answer()
}
