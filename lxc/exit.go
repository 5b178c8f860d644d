package lxc

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/monitor"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
)

// unknownStatus is reported when nobody can tell how a process ended, as by
// runc.
const unknownStatus = 255

// instanceExit waits for the end of the init process.
func (c *Container) instanceExit(ctx context.Context) Exit {
	status, err := c.waitStatus(ctx)
	exit := Exit{Status: exitStatus(status), At: time.Now()}
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", c.ID()).Error("exit status of the init process is unknown")
		exit.Status = unknownStatus
	}
	return exit
}

// watchExit connects to who tells the exit status, if the kernel does not. LXC
// must not have been started.
func (c *creation) watchExit(ctx context.Context) (err error) {
	if !c.request.Broadcast {
		return nil
	}
	if c.exits, err = monitor.Watch(ctx, c.record.LXCPath, c.record.Name); err != nil {
		return err
	}
	c.onFailure(func(context.Context) error { return c.exits.Close() })
	return nil
}

// broadcastTimeout bounds the way of the exit status through lxc-monitord
// after LXC's end. It is only met when lxc-monitord hangs.
const broadcastTimeout = 60 * time.Second

var errNoBroadcast = errors.New("LXC ended without telling it")

// waitStatus waits until the init process has ended, and says how.
func (c *Container) waitStatus(ctx context.Context) (unix.WaitStatus, error) {
	if c.exits == nil {
		return pidfd.Wait(c.Init.pidfd)
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go func() {
		select {
		case <-c.instance.Done():
			marked, cancel := context.WithTimeoutCause(ctx, broadcastTimeout, errNoBroadcast)
			defer cancel()
			giveUp(errors.Join(errNoBroadcast, c.exits.Mark(marked)))
		case <-ctx.Done():
		}
	}()
	status, err := c.exits.Exit(ctx)
	if err := c.exits.Close(); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.ID()).Warn("end the watch of the exit status")
	}
	return status, err
}

// exitStatus is the convention of shells and runtimes: 128 + signal.
func exitStatus(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
