package pve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Error is a tool of Proxmox that failed.
type Error struct {
	Verb  string // of pct
	VMID  int
	Code  int      // exit code; 0 of a verb that does not tell by it
	Lines []string // the last of what it printed, the cause first
	class error
}

// Error is one line.
func (e *Error) Error() string {
	text := strings.Join(e.Lines, "; ")
	if text == "" {
		text = "no message"
	}
	return fmt.Sprintf("pct %s %d: exit status %d: %s", e.Verb, e.VMID, e.Code, text)
}

// Unwrap is the errdefs class.
func (e *Error) Unwrap() error { return e.class }

// maxLines of each stream are enough to tell the cause.
const maxLines = 5

func newError(verb string, vmid, code int, out Output) *Error {
	e := &Error{Verb: verb, VMID: vmid, Code: code}
	// A worker's messages come on stdout; its last word, with newlines as
	// blanks, on stderr.
	for _, text := range []string{out.Stderr, out.Stdout} {
		for line := range strings.SplitSeq(last(text, maxLines), "; ") {
			line = withoutProgress(line)
			if line != "" && !usage(line) && !slices.Contains(e.Lines, line) {
				e.Lines = append(e.Lines, line)
			}
		}
	}
	e.class = classify(code, strings.Join(e.Lines, "\n"))
	return e
}

// withoutProgress takes away that pct waited for a lock, which it says without
// a newline: what ended the wait follows on the same line, " OK" or the cause.
func withoutProgress(line string) string {
	before, after, waited := strings.Cut(line, "trying to acquire lock...")
	if after = strings.TrimSpace(after); waited && after == "OK" {
		after = ""
	}
	return strings.TrimSpace(before + after)
}

// usage lines tell no cause.
func usage(line string) bool {
	return strings.HasPrefix(line, "pct ") && strings.HasSuffix(line, "[OPTIONS]")
}

// lies says whether a verb answers 0 although its worker failed.
func lies(verb string) bool {
	return slices.Contains([]string{"template", "resize", "push", "pull"}, verb)
}

// failed says whether such a verb's last word is that of a failure.
func failed(stderr string) bool {
	for line := range strings.Lines(stderr) {
		line = withoutProgress(line)
		if line != "" && !strings.HasPrefix(line, "WARN: ") && !(strings.HasPrefix(line, "Task finished with ") && strings.HasSuffix(line, "warning(s)!")) {
			return true
		}
	}
	return false
}

// What pct says of volumes.
var (
	errNoTemplate    = fmt.Errorf("the storage has no templates: %w", errdefs.ErrFailedPrecondition)
	errNoLinkedClone = fmt.Errorf("the storage has no linked clones: %w", errdefs.ErrFailedPrecondition)
	errInUse         = fmt.Errorf("the volume has linked clones: %w", errdefs.ErrFailedPrecondition)
)

// refused is the exit code when pmxcfs is down (ECONNREFUSED).
const refused = 111

// classes by words of the message: the exit code of pct does not tell. The
// first that matches counts.
var classes = []struct {
	class error
	words []string
}{
	{errdefs.ErrUnavailable, []string{"CT is locked", "no quorum", "can't lock file", "got timeout", "Connection refused"}},
	{errdefs.ErrNotFound, []string{"Configuration file 'nodes/", "no such VM", "no such CT"}},
	{errdefs.ErrAlreadyExists, []string{"already exists on node", "already running"}},
	{errdefs.ErrResourceExhausted, []string{"No space left on device", "out of space", "not enough free space", "not enough space"}},
	{errdefs.ErrPermissionDenied, []string{"Permission denied", "Permission check failed", "please run as root", "Only root can"}},
	{errdefs.ErrInvalidArgument, []string{"Parameter verification failed", "unable to parse option", "Unknown option", "not enough arguments", "invalid format", "does not support container directories"}},
	{errdefs.ErrNotFound, []string{"' does not exist", "can't find file"}},
	{context.DeadlineExceeded, []string{"timed out", "did not stop"}},
	{errNoTemplate, []string{"Template feature is not available"}},
	{errNoLinkedClone, []string{"Linked clone feature for"}},
	{errInUse, []string{"is still in use by linked clone"}},
	{errdefs.ErrFailedPrecondition, []string{"not running", "is running", "protection mode", "not available"}},
}

func classify(code int, text string) error {
	if code == refused {
		return errdefs.ErrUnavailable
	}
	for _, c := range classes {
		if slices.ContainsFunc(c.words, func(w string) bool { return strings.Contains(text, w) }) {
			return c.class
		}
	}
	return errdefs.ErrUnknown
}
