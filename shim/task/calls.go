package task

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// hand hands a call to the container's backend.
func hand[Q interface{ GetID() string }, A any](ctx context.Context, s *Service, q Q, call func(backend, context.Context, Q) (A, error)) (A, error) {
	e := s.entry(q.GetID())
	if e == nil {
		var none A
		return none, errNotCreated()
	}
	return call(e.backend, ctx, q)
}

// Start starts the container, or an exec.
func (s *Service) Start(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	return hand(ctx, s, r, backend.Start)
}

// State tells about a process.
func (s *Service) State(ctx context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	return hand(ctx, s, r, backend.State)
}

// Pids lists the processes.
func (s *Service) Pids(ctx context.Context, r *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	return hand(ctx, s, r, backend.Pids)
}

// Pause freezes the container.
func (s *Service) Pause(ctx context.Context, r *taskAPI.PauseRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Pause)
}

// Resume lets it run on.
func (s *Service) Resume(ctx context.Context, r *taskAPI.ResumeRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Resume)
}

// Checkpoint checkpoints the container.
func (s *Service) Checkpoint(ctx context.Context, r *taskAPI.CheckpointTaskRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Checkpoint)
}

// Kill sends a signal.
func (s *Service) Kill(ctx context.Context, r *taskAPI.KillRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Kill)
}

// Exec adds a process.
func (s *Service) Exec(ctx context.Context, r *taskAPI.ExecProcessRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Exec)
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskAPI.ResizePtyRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.ResizePty)
}

// CloseIO closes the input of a process.
func (s *Service) CloseIO(ctx context.Context, r *taskAPI.CloseIORequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.CloseIO)
}

// Update changes resources.
func (s *Service) Update(ctx context.Context, r *taskAPI.UpdateTaskRequest) (*ptypes.Empty, error) {
	return hand(ctx, s, r, backend.Update)
}

// Wait waits for the end of a process.
func (s *Service) Wait(ctx context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	return hand(ctx, s, r, backend.Wait)
}

// Stats returns the figures of the control group.
func (s *Service) Stats(ctx context.Context, r *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	return hand(ctx, s, r, backend.Stats)
}
