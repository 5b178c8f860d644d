// Package hook runs the hooks of an OCI bundle that belong into the host's
// namespaces: prestart, createRuntime, poststart and poststop (runtime-spec
// 1.3.0, config.md, "POSIX-platform Hooks").
//
// It does not decide when a hook runs, and does not enter namespaces: hooks
// that run inside of the container (startContainer) are started by the helper.
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

// Run runs the hooks of one list in order, with state as JSON on their stdin
// and the bundle as working directory. The first failure ends the list; it is
// an *Error. The end of ctx kills the hook that is running.
func Run(ctx context.Context, name string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the state for hooks.%s: %w", name, err)
	}
	for i, h := range hooks {
		if err := run(ctx, name, i, h, state.Bundle, input); err != nil {
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
		if err := run(ctx, name, i, h, state.Bundle, input); err != nil {
			log.G(ctx).WithError(err).Warn("hook failed")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func run(ctx context.Context, name string, index int, h specs.Hook, dir string, input []byte) error {
	begin := time.Now()
	stderr, err := execute(ctx, h, dir, input)
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
func execute(ctx context.Context, h specs.Hook, dir string, input []byte) (stderr string, err error) {
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

	cmd := command(h, dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin.File, null, output.File
	err = wait(ctx, cmd, h.Timeout)
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

// wait starts cmd and returns after it has ended. Timeout is in seconds.
func wait(ctx context.Context, cmd *exec.Cmd, timeout *int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := child.Start(cmd)
	if err != nil {
		return err
	}
	defer cmd.Process.Release() //nolint:errcheck // closes the pidfd; the reaper has the process
	limited := ctx
	if timeout != nil {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
		defer cancel()
	}
	exit, err := c.Wait(limited)
	if err != nil {
		_ = cmd.Process.Kill() // fails only if it has just ended
		<-c.Done()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("hook ran past specified timeout of %d s: %w", *timeout, context.DeadlineExceeded)
	}
	if exit.Status != 0 {
		return fmt.Errorf("exit status %d", exit.Status)
	}
	return nil
}
