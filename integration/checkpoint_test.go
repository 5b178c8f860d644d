package integration

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

// A container runs on after the checkpoint that it can not have.
func TestALXCContainerHasNoCheckpoint(t *testing.T) {
	for _, v := range harness.Versions {
		t.Run(v.Name, func(t *testing.T) {
			w := world(t, v.Name)
			logged(t, w)
			leaveNothing(t, w)
			s := newScript(t, w, harness.LXC(), "checkpoint", forever...)
			s.create()
			s.start()
			err := s.Checkpoint(s.ctx)
			assert.ErrorIs(t, err, errdefs.ErrNotImplemented)
			assert.ErrorContains(t, err, "checkpoint of an LXC container: route the container to crun")
			s.state()
			s.kill(uint32(unix.SIGKILL))
			s.wait()
			s.delete()
			assert.Equal(t, []string{"create: ok", "start: ok", "state: running", "kill 9: ok", "exit: 137", "delete: 137"}, s.log)
		})
	}
}
