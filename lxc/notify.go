package lxc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// notifyTimeout bounds the way of a listener to the agent: it is met only by
// one that does not accept.
const notifyTimeout = 10 * time.Second

// listenerOf returns what sends the listener of a process's seccomp filter to
// the agent at linux.seccomp.listenerPath; nil if the filter has none.
// state is the container's.
func (c *Container) listenerOf(pid int, status specs.ContainerState) func(context.Context, *os.File) error {
	f := c.plan.Filter
	if f == nil || f.ListenerPath == "" {
		return nil
	}
	return func(ctx context.Context, listener *os.File) error {
		err := sendListener(ctx, f, c.processState(pid, status), listener)
		if err != nil {
			return fmt.Errorf("linux.seccomp.listenerPath: %q: %w", f.ListenerPath, err)
		}
		return nil
	}
}

// processState is what comes with a listener (runtime-spec, The Container
// Process State).
func (c *Container) processState(pid int, status specs.ContainerState) *specs.ContainerProcessState {
	s := &specs.ContainerProcessState{
		Version:  specs.Version,
		Fds:      []string{specs.SeccompFdName},
		Pid:      pid,
		Metadata: c.plan.Filter.ListenerMetadata,
		State:    *c.state(status),
	}
	return s
}

// sendListener sends one message, the state in JSON with the listener, and
// closes the connection.
func sendListener(ctx context.Context, f *oci.Filter, state *specs.ContainerProcessState, listener *os.File) (retErr error) {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", f.ListenerPath)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, conn.Close()) }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	n, _, err := conn.(*net.UnixConn).WriteMsgUnix(text, unix.UnixRights(int(listener.Fd())), nil)
	if err == nil && n < len(text) {
		_, err = conn.Write(text[n:])
	}
	return err
}
