package task

import (
	"context"
	"errors"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowBackend creates containers when it is told to.
type slowBackend struct {
	fakeBackend
	creating chan struct{} // gets a value when Create was called
	outcome  chan error    // what Create returns
	deleted  int
}

func (b *slowBackend) Create(context.Context, *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	b.creating <- struct{}{}
	return &taskAPI.CreateTaskResponse{Pid: 7}, <-b.outcome
}

func (b *slowBackend) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	b.deleted++
	return b.fakeBackend.Delete(ctx, r)
}

// creation is a Create under way, whose client has given up.
type creation struct {
	ctx     context.Context
	service *Service
	backend *slowBackend
	entry   *entry
	ended   *int
	result  chan error
}

func newCreation(t *testing.T) *creation {
	ctx, s, _ := newTestService(t)
	c := &creation{
		ctx: ctx, service: s, ended: endings(s), result: make(chan error, 1),
		backend: &slowBackend{creating: make(chan struct{}), outcome: make(chan error)},
	}
	c.entry = newEntry(t, nil, "c1", c.backend)
	require.NoError(t, c.entry.remove(c.entry.state.Bundle)) // Create makes it
	c.entry.gone = false
	go func() {
		_, err := s.create(ctx, c.entry, &taskAPI.CreateTaskRequest{ID: "c1", Bundle: c.entry.state.Bundle})
		c.result <- err
	}()
	<-c.backend.creating
	return c
}

// giveUp is what containerd does when its client has cancelled Create.
func (c *creation) giveUp(ctx context.Context) error {
	_, err := c.service.Delete(ctx, &taskAPI.DeleteRequest{ID: "c1"})
	_, serr := c.service.Shutdown(c.ctx, &taskAPI.ShutdownRequest{ID: "c1"})
	return errors.Join(errgrpc.ToNative(err), serr)
}

func TestDeleteWaitsForTheEndOfCreate(t *testing.T) {
	c := newCreation(t)
	gaveUp := make(chan error)
	go func() { gaveUp <- c.giveUp(c.ctx) }()
	select {
	case err := <-gaveUp:
		t.Fatal("Delete did not wait: ", err)
	case <-time.After(20 * time.Millisecond):
	}
	c.backend.outcome <- nil
	require.NoError(t, <-c.result)
	require.NoError(t, <-gaveUp)
	assert.Equal(t, 1, c.backend.deleted)
	assert.NoDirExists(t, string(c.entry.dir))
	assert.Equal(t, 1, *c.ended)
}

func TestDeleteOfWhatCouldNotBeCreatedIsNotFound(t *testing.T) {
	c := newCreation(t)
	gaveUp := make(chan error)
	go func() { gaveUp <- c.giveUp(c.ctx) }()
	c.backend.outcome <- errgrpc.ToGRPC(errdefs.ErrInvalidArgument)
	require.ErrorIs(t, errgrpc.ToNative(<-c.result), errdefs.ErrInvalidArgument)
	require.ErrorIs(t, <-gaveUp, errdefs.ErrNotFound)
	assert.Zero(t, c.backend.deleted)
	assert.NoDirExists(t, string(c.entry.dir))
	assert.Equal(t, 1, *c.ended)
}

// containerd waits some seconds for Delete, asks for the shutdown, and hangs up.
func TestWhatNobodyWaitsForIsDeletedOnceItIsCreated(t *testing.T) {
	for name, outcome := range map[string]error{"created": nil, "failed": errgrpc.ToGRPC(errdefs.ErrInvalidArgument)} {
		t.Run(name, func(t *testing.T) {
			c := newCreation(t)
			short, cancel := context.WithTimeout(c.ctx, time.Millisecond)
			defer cancel()
			require.ErrorIs(t, c.giveUp(short), context.DeadlineExceeded)
			assert.Zero(t, *c.ended, "a container is being created")
			c.backend.outcome <- outcome
			err := errgrpc.ToNative(<-c.result)
			if outcome == nil {
				assert.ErrorIs(t, err, errdefs.ErrAborted)
				assert.Equal(t, 1, c.backend.deleted)
			} else {
				assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			}
			assert.Nil(t, c.service.entry("c1"))
			assert.NoDirExists(t, string(c.entry.dir))
			assert.Equal(t, 1, *c.ended, "containerd will not ask again")
		})
	}
}

func TestAnotherContainerKeepsTheShim(t *testing.T) {
	c := newCreation(t)
	newEntry(t, c.service, "c2", &fakeBackend{})
	short, cancel := context.WithTimeout(c.ctx, time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.giveUp(short), context.DeadlineExceeded)
	c.backend.outcome <- nil
	require.Error(t, <-c.result)
	assert.Zero(t, *c.ended)
}

func TestAnExpectedContainerKeepsTheShim(t *testing.T) {
	ctx, s, _ := newTestService(t)
	ended := endings(s)
	require.NoError(t, s.Expect("c1"))
	require.NoError(t, s.Expect("c1"), "again")
	_, err := s.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: "another"})
	require.NoError(t, err)
	assert.Zero(t, *ended)

	newEntry(t, s, "c1", &fakeBackend{})
	assert.Empty(t, s.expected, "it has come")
	_, err = s.Delete(ctx, &taskAPI.DeleteRequest{ID: "c1"})
	require.NoError(t, err)
	_, err = s.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: "c1"})
	require.NoError(t, err)
	assert.Equal(t, 1, *ended)
}

func TestTheShimEndsWhenTheExpectedDoesNotCome(t *testing.T) {
	for name, gone := range map[string]func(*Service){
		"given up": func(s *Service) { s.Unexpect("c1") },
		"shutdown": func(s *Service) { _, _ = s.Shutdown(t.Context(), &taskAPI.ShutdownRequest{ID: "c1"}) },
	} {
		t.Run(name, func(t *testing.T) {
			_, s, _ := newTestService(t)
			ended := endings(s)
			require.NoError(t, s.Expect("c1"))
			gone(s)
			assert.Equal(t, 1, *ended)
			s.Unexpect("c1")
			assert.Equal(t, 1, *ended)
		})
	}
}

func TestAShimThatEndsTakesNoContainer(t *testing.T) {
	ctx, s, _ := newTestService(t)
	_, err := s.Shutdown(ctx, &taskAPI.ShutdownRequest{})
	require.NoError(t, err)
	assert.ErrorIs(t, s.Expect("c1"), errdefs.ErrUnavailable)
	_, err = s.Create(ctx, &taskAPI.CreateTaskRequest{
		ID: "c1", Bundle: newBundle(t, &specs.Spec{Version: "1.2.0"}), Options: optionsWith(t, t.TempDir(), ""),
	})
	assert.ErrorIs(t, errgrpc.ToNative(err), errdefs.ErrUnavailable)
}
