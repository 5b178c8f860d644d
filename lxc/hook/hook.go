// Package hook runs the hooks of an OCI bundle (runtime-spec 1.3.0, config.md,
// "POSIX-platform Hooks"): it hands out the state, keeps the time, and says
// what went wrong. Those of the host's namespaces it starts itself.
//
// It does not decide when a hook runs, and does not enter namespaces: those of
// the container's (createContainer, startContainer) are started by the caller,
// see Launch.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Error is a hook that could not be started, ended with a failure, or ran past
// its timeout.
type Error struct {
	Name   string // of the list in the spec's hooks, e.g. "createRuntime"
	Index  int    // in that list
	Path   string
	Stderr string // the end of what it wrote
	Err    error
}

// Error names the hook by its JSON path.
func (e *Error) Error() string {
	text := fmt.Sprintf("hooks.%s[%d] (%s): error running hook: %v", e.Name, e.Index, e.Path, e.Err)
	if e.Stderr != "" {
		text += ", stderr: " + e.Stderr
	}
	return text
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Launch starts the process of a hook, with these streams as stdin, stdout and
// stderr. kill ends it, and release is called once when it is over.
type Launch func(ctx context.Context, h specs.Hook, stdio [3]*os.File) (Process, error)

// Process is a hook that runs.
type Process struct {
	*child.Child
	Kill    func() error
	Release func() error
}

// Run runs the hooks of one list in order, in the namespaces of the caller,
// with state as JSON on their stdin and the bundle as working directory. The
// first failure ends the list; it is an *Error. The end of ctx kills the hook
// that is running.
func Run(ctx context.Context, name string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	return RunWith(ctx, onHost(state.Bundle), name, hooks, state)
}

// RunWith is Run for hooks that launch starts.
func RunWith(ctx context.Context, launch Launch, name string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the state for hooks.%s: %w", name, err)
	}
	for i, h := range hooks {
		if err := run(ctx, launch, name, i, h, input); err != nil {
			return err
		}
	}
	return nil
}

// RunAll runs every hook of a list, whatever became of those before, as the
// runtime-spec wants it for poststart and poststop (runtime.md, "Lifecycle"):
// a failure is logged as a warning. The failures are returned together, for a
// caller who wants to know.
func RunAll(ctx context.Context, name string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the state for hooks.%s: %w", name, err)
	}
	var errs []error
	for i, h := range hooks {
		if err := run(ctx, onHost(state.Bundle), name, i, h, input); err != nil {
			log.G(ctx).WithError(err).Warn("hook failed")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func run(ctx context.Context, launch Launch, name string, index int, h specs.Hook, input []byte) error {
	begin := time.Now()
	stderr, err := execute(ctx, launch, h, input)
	log.G(ctx).WithError(err).WithField("hook", fmt.Sprintf("%s[%d]", name, index)).
		WithField("path", h.Path).WithField("duration", time.Since(begin)).Debug("hook ended")
	if err != nil {
		return &Error{Name: name, Index: index, Path: h.Path, Stderr: stderr, Err: err}
	}
	return nil
}

// execute runs one hook. It waits for the end of the hook itself, not of what
// the hook leaves behind: nerdctl's createRuntime hook, for one, starts a
// daemon that inherits its descriptors. Hence files and no pipes.
func execute(ctx context.Context, launch Launch, h specs.Hook, input []byte) (stderr string, err error) {
	if h.Timeout != nil && *h.Timeout <= 0 {
		return "", fmt.Errorf("timeout: %d is not greater than zero: %w", *h.Timeout, errdefs.ErrInvalidArgument)
	}
	stdin, err := newScratch("hook-stdin", input)
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	output, err := newScratch("hook-stderr", nil)
	if err != nil {
		return "", err
	}
	defer output.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()

	err = wait(ctx, launch, h, [3]*os.File{stdin.File, null, output.File})
	output.seal()
	if err != nil {
		return output.tail(), err
	}
	return "", nil
}

// command gives the hook exactly the environment and arguments of the spec.
func command(h specs.Hook, dir string) *exec.Cmd {
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	env := h.Env
	if env == nil {
		env = []string{} // nil would be our own environment
	}
	return &exec.Cmd{Path: h.Path, Args: args, Env: env, Dir: dir}
}

// onHost starts hooks as children in the namespaces of the caller.
func onHost(dir string) Launch {
	return func(_ context.Context, h specs.Hook, stdio [3]*os.File) (Process, error) {
		cmd := command(h, dir)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
		c, err := child.Start(cmd)
		if err != nil {
			return Process{}, err
		}
		// Release closes the pidfd; the reaper has the process.
		return Process{Child: c, Kill: cmd.Process.Kill, Release: cmd.Process.Release}, nil
	}
}

// wait starts a hook and returns after it has ended.
func wait(ctx context.Context, launch Launch, h specs.Hook, stdio [3]*os.File) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited := ctx
	if h.Timeout != nil {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	p, err := launch(limited, h, stdio)
	if err != nil {
		return overdue(ctx, limited, h, err)
	}
	defer p.Release() //nolint:errcheck // it has ended
	exit, err := p.Wait(limited)
	if err != nil {
		_ = p.Kill() // fails only if it has just ended
		<-p.Done()
		return overdue(ctx, limited, h, err)
	}
	if exit.Status != 0 {
		return fmt.Errorf("exit status %d", exit.Status)
	}
	return nil
}

// overdue says which of the two contexts ended, if one did.
func overdue(ctx, limited context.Context, h specs.Hook, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("hook ran past specified timeout of %d s: %w", *h.Timeout, context.DeadlineExceeded)
	default:
		return err
	}
}
