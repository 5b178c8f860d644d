package oci

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// FieldError says which property of config.json is refused, and why.
type FieldError struct {
	Path   string // as in linux.memoryPolicy.mode or mounts[3].options[1]
	Value  any    // nil if the reason says it all
	Reason string // goes on after the value: `is not one of …`

	kind error
}

// maxShown is how much of a value an error shows, in bytes.
const maxShown = 256

func (e *FieldError) Error() string {
	switch v := e.Value.(type) {
	case nil:
		return e.Path + ": " + e.Reason
	case string:
		return fmt.Sprintf("%s: %s %s", e.Path, quote(v), e.Reason)
	default:
		return fmt.Sprintf("%s: %v %s", e.Path, v, e.Reason)
	}
}

// Unwrap gives errdefs.ErrInvalidArgument for a property that is wrong, and
// errdefs.ErrNotImplemented for one that the LXC backend does not apply.
func (e *FieldError) Unwrap() error { return e.kind }

func quote(s string) string {
	if len(s) > maxShown {
		return fmt.Sprintf("%q…", s[:maxShown])
	}
	return fmt.Sprintf("%q", s)
}

func invalid(path string, value any, format string, args ...any) error {
	return &FieldError{Path: path, Value: value, Reason: fmt.Sprintf(format, args...), kind: errdefs.ErrInvalidArgument}
}

func notImplemented(path string, value any, reason string) error {
	return &FieldError{Path: path, Value: value, Reason: reason, kind: errdefs.ErrNotImplemented}
}

func notOneOf[T ~string](path string, value T, known []T) error {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return invalid(path, string(value), "is not one of %s", strings.Join(names, ", "))
}

// at is the path of an element: at("mounts", 3) is mounts[3].
func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// key is the path of a value in a map: key("linux.sysctl", "a.b") is
// linux.sysctl["a.b"].
func key(path, k string) string { return path + "[" + quote(k) + "]" }

// noNUL refuses the byte that no string in the kernel can have.
func noNUL(path, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return invalid(path, s, "has a NUL byte")
	}
	return nil
}

func noNULs(path string, list []string) error {
	for i, s := range list {
		if err := noNUL(at(path, i), s); err != nil {
			return err
		}
	}
	return nil
}
