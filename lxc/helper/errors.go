package helper

import (
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// ErrEnded is returned when the helper is gone without an answer: it was
// killed, by a signal or for lack of memory.
var ErrEnded = fmt.Errorf("the helper has ended without an answer: %w (%w)", io.ErrUnexpectedEOF, errdefs.ErrUnavailable)

// OpError is an operation that failed in the helper, which has ended with it.
// It unwraps to the errno.
type OpError struct {
	Op    initop.Op
	Index int // in the operations that were sent
	Errno unix.Errno

	extra  uint32
	lookup initop.Op // the last Lookup that succeeded, for Exec
}

func (e *OpError) Unwrap() error { return e.Errno }

// Error says it in the words of runc, where users know them from there.
func (e *OpError) Error() string {
	switch e.Op.Code() {
	case initop.CodeLookup:
		return "exec: " + strconv.Quote(e.Op.Arg()) + ": " + e.lookupReason()
	case initop.CodeChdir, initop.CodeTryChdir, initop.CodeRetryChdir:
		return fmt.Sprintf("chdir to cwd (%q) set in config.json failed: %s", e.Op.Arg(), e.Errno.Error())
	case initop.CodeExec:
		return fmt.Sprintf("exec %s: %s", e.executable(), e.Errno.Error())
	default:
		text := fmt.Sprintf("%s failed: %s", e.Op, e.Errno.Error())
		if p := e.Op.Property(); p != "" {
			text = p + ": " + text
		}
		return text
	}
}

func (e *OpError) lookupReason() string {
	switch e.extra {
	case initop.LookupStat:
		return "stat " + e.Op.Arg() + ": " + e.Errno.Error()
	case initop.LookupNotFound:
		return "executable file not found in $PATH"
	case initop.LookupDot:
		return "cannot run executable found relative to current directory"
	default:
		return e.Errno.Error()
	}
}

func (e *OpError) executable() string {
	if c := e.lookup.Candidates(); int(e.extra) < len(c) {
		return c[e.extra]
	}
	return e.lookup.Arg()
}
