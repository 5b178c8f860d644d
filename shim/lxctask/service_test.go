package lxctask

import (
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestACheckpointIsNotRestoredAsANewContainer(t *testing.T) {
	s, err := New(t.Context(), nil, nil) // nothing is prepared
	require.NoError(t, err)
	_, err = s.Create(t.Context(), &taskAPI.CreateTaskRequest{ID: "c1", Checkpoint: "/checkpoint"})
	assert.ErrorIs(t, errgrpc.ToNative(err), errdefs.ErrNotImplemented)
	assert.ErrorContains(t, err, "a checkpoint can not be restored with LXC: route the container to crun")
	assert.Empty(t, s.tasks)
}
