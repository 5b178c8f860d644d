package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/crun"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

// make makes the record of a container on disk. What an earlier container
// with this id has left, because its delete verb failed, is destroyed first.
func (s *Service) make(ctx context.Context, e *entry, bundle string) error {
	err := e.make(bundle)
	if !errors.Is(err, errdefs.ErrAlreadyExists) {
		return err
	}
	if err := destroyLeft(ctx, e.dir, bundle); err != nil {
		return fmt.Errorf("%s is of an earlier container: %w", e.dir, err)
	}
	log.G(ctx).WithField("id", e.state.ID).Warn("removed what an earlier container of this id had left")
	return e.make(bundle)
}

// destroyLeft destroys a container that nobody serves any more. bundle is that
// of the container which takes its place.
func destroyLeft(ctx context.Context, dir state.Dir, bundle string) error {
	st, err := dir.Read()
	if errors.Is(err, errdefs.ErrNotFound) {
		return dir.Remove() // a shim died before it made anything
	}
	if err != nil {
		return err
	}
	if err := unserved(st, bundle); err != nil {
		return err
	}
	if st.Backend == config.BackendCrun {
		err = crun.Destroy(ctx, st.Crun, st.Namespace, st.ID, st.Bundle)
	} else {
		err = destroy(ctx, st)
	}
	if err != nil {
		return fmt.Errorf("it can not be removed: %w", err)
	}
	return dir.Remove()
}

// unserved returns an error if a container still belongs to somebody: to a
// shim, or to the containerd that has its bundle and will call its delete verb.
func unserved(st *state.State, bundle string) error {
	self, err := lxc.ThisProcess()
	if err != nil {
		return err
	}
	alive, err := st.Shim.Alive()
	if err != nil {
		return err
	}
	if alive && st.Shim != self {
		return fmt.Errorf("it is served by the shim with pid %d: %w", st.Shim.PID, errdefs.ErrAlreadyExists)
	}
	if st.Bundle == bundle {
		return nil
	}
	switch _, err := os.Lstat(st.Bundle); {
	case err == nil:
		return fmt.Errorf("its bundle %s still exists, delete it with the containerd that made it: %w", st.Bundle, errdefs.ErrAlreadyExists)
	case errors.Is(err, os.ErrNotExist):
		return nil
	default:
		return err
	}
}
