// Package metadata asks containerd what it knows of a container and a runtime
// is not told: its image and its labels. It is for what people are shown;
// nothing depends on the answer.
//
// The one call goes over net/http's HTTP/2: the shim is built without gRPC's
// library, whose size every shim would pay for.
package metadata

import (
	"context"
	"fmt"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/protobuf/proto"
)

// Container is what containerd knows.
type Container struct {
	Image  string // as the client named it; "" without one
	Labels map[string]string
}

const getContainer = "/containerd.services.containers.v1.Containers/Get"

// Get asks the containerd at address, the path of its gRPC socket, for a
// container.
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
