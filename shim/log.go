package shim

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// openLog sends the log, and what the Go runtime prints, to the FIFO that
// containerd reads.
func (c *command) openLog() error {
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	if c.debug {
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	// Not by package os, which would make it non-blocking: a line that does
	// not fit would be lost.
	fd, err := unix.Open("log", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("log of containerd: %w", err)
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, int(os.Stderr.Fd()), 0)
}

// dumpOnSignal writes all goroutines to the log on SIGUSR1, from now on.
func dumpOnSignal(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGUSR1)
	go func() {
		for range sig {
			buf := make([]byte, 1<<20)
			log.G(ctx).Infof("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
		}
	}()
}
