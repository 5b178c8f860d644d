package shim

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

const (
	// idleTime without a call is when a shim gives memory back,
	idleTime = 2 * time.Second
	// and trimInterval the least time from one time to the next.
	trimInterval = 30 * time.Second
)

// trimmer gives memory back while the shim is idle: a host has as many shims
// as pods, and most of what one has touched was for the start alone.
type trimmer struct {
	timer *time.Timer
	last  atomic.Int64 // time of the last trim, in nanoseconds
}

func newTrimmer() *trimmer {
	t := &trimmer{}
	t.timer = time.AfterFunc(idleTime, t.trim)
	return t
}

// intercept sees every call.
func (t *trimmer) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	t.touch()
	defer t.touch()
	return method(ctx, unmarshal)
}

func (t *trimmer) touch() {
	rest := trimInterval - time.Duration(time.Now().UnixNano()-t.last.Load())
	t.timer.Reset(max(idleTime, rest))
}

func (t *trimmer) trim() {
	t.last.Store(time.Now().UnixNano())
	debug.FreeOSMemory()
	if err := dropProgram(); err != nil {
		log.L.WithError(err).Debug("give memory back")
	}
}

// dropProgram unmaps the pages of the program's code and constants. They are
// those of the file: what is needed again is mapped again when it is touched.
func dropProgram() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		start, end, ok := constant(lines.Text(), self)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// constant parses a line of proc_pid_maps(5); ok if it is a mapping of the
// file that nobody can have written to.
func constant(line, file string) (start, end uintptr, ok bool) {
	var perms string
	if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perms); err != nil {
		return 0, 0, false
	}
	return start, end, !strings.Contains(perms, "w") && strings.HasSuffix(line, " "+file)
}
