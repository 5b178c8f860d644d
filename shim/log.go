package shim

import (
	"context"
	"errors"
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
	return joinLog("log")
}

// joinLog connects stderr with a FIFO. containerd has its end open before it
// calls the start verb, unless the client has given up meanwhile: then nobody
// comes, and open(2) would keep the shim from ending by itself. So without a
// reader the shim goes on, and its log waits for one.
func joinLog(fifo string) error {
	fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENXIO):
		go func() {
			fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err := becomeStderr(fd, err); err != nil {
				log.L.Error(err)
			}
		}()
		return nil
	case err == nil:
		// A line that does not fit would be lost.
		err = unix.SetNonblock(fd, false)
	}
	return becomeStderr(fd, err)
}

// becomeStderr puts fd in the place of stderr. err is what opening it gave.
func becomeStderr(fd int, err error) error {
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err == nil {
		err = unix.Dup3(fd, int(os.Stderr.Fd()), 0)
	}
	if err != nil {
		return fmt.Errorf("log of containerd: %w", err)
	}
	return nil
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
