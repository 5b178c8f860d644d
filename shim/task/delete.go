package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/crun"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

// Stopped is how a container ended, for the delete verb.
type Stopped struct {
	PID    int       `json:"pid"`
	Status int       `json:"status"`
	At     time.Time `json:"at"`
}

// Delete removes whatever a container has left whose shim has ended, from the
// record on disk alone. A container that was deleted, or never created, has
// left nothing.
func Delete(ctx context.Context, namespace, id, bundle string) (Stopped, error) {
	killed := Stopped{Status: 128 + int(unix.SIGKILL), At: time.Now()}
	if s, err := readDeleted(bundle); !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	link, err := os.Readlink(filepath.Join(bundle, stateLink))
	if errors.Is(err, os.ErrNotExist) {
		return killed, nil
	}
	if err != nil {
		return Stopped{}, err
	}
	dir := state.Dir(link)
	st, err := dir.Read()
	if errors.Is(err, errdefs.ErrNotFound) {
		return killed, nil
	}
	if err != nil {
		return Stopped{}, err
	}
	if st.Namespace != namespace || st.ID != id {
		return Stopped{}, fmt.Errorf("%s is of container %s/%s: %w", dir, st.Namespace, st.ID, errdefs.ErrFailedPrecondition)
	}
	if err := destroy(ctx, st); err != nil {
		return Stopped{}, err
	}
	killed.PID, killed.At = st.PID, time.Now()
	if st.Exit != nil {
		killed.Status, killed.At = st.Exit.Status, st.Exit.At
	}
	return killed, dir.Remove()
}

func readDeleted(bundle string) (s Stopped, err error) {
	b, err := os.ReadFile(filepath.Join(bundle, deletedFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// destroy ends the container and removes what it has.
func destroy(ctx context.Context, st *state.State) error {
	switch {
	case st.Backend == config.BackendCrun:
		// containerd's own, which works from its files in the bundle.
		runc.Monitor = reaper.Default
		if err := os.Chdir(st.Bundle); err != nil {
			return err
		}
		if _, err := manager.NewShimManager("").Stop(ctx, st.ID); err != nil {
			return err
		}
		return crun.Destroyed(st.Crun, st.Namespace, st.ID) // it only logs that crun has failed
	case st.LXC != nil:
		return st.LXC.Destroy(ctx)
	default: // the shim died before it made anything
		return nil
	}
}
