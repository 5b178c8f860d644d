package stdio

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

type kind int

const (
	kindNull   kind = iota // /dev/null
	kindFIFO               // a path: a FIFO, or any file that exists
	kindFile               // a file, created and appended to
	kindBinary             // a logging process
)

// target is a parsed stdio URI.
type target struct {
	kind kind
	path string
	uri  string // as given

	args   []string // of a logger
	strict bool     // a logger that says "ready" by a byte
}

// parseOutput parses the URI of stdout or stderr. The field's name is for
// errors, which wrap errdefs.ErrInvalidArgument.
func parseOutput(field, uri string) (target, error) {
	return parse(field, uri, "fifo", "file", "binary", "binary-v2")
}

// parseInput parses the URI of stdin, which is a FIFO.
func parseInput(field, uri string) (target, error) {
	return parse(field, uri, "fifo")
}

func parse(field, uri string, schemes ...string) (target, error) {
	if uri == "" || filepath.IsAbs(uri) {
		t := target{uri: uri, path: uri}
		if uri != "" {
			t.kind = kindFIFO
		}
		return t, nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return target{}, invalid(field, "%v", err)
	}
	for _, s := range schemes {
		if s == u.Scheme {
			return fromURL(field, uri, u)
		}
	}
	return target{}, invalid(field, "scheme %q of %q is not one of %s", u.Scheme, uri, strings.Join(schemes, ", "))
}

func fromURL(field, uri string, u *url.URL) (target, error) {
	if u.Host != "" || !filepath.IsAbs(u.Path) {
		return target{}, invalid(field, "%q has no absolute path: write %s:///path", uri, u.Scheme)
	}
	t := target{path: u.Path, uri: uri}
	switch u.Scheme {
	case "fifo":
		t.kind = kindFIFO
	case "file":
		t.kind = kindFile
	default:
		t.kind, t.strict = kindBinary, u.Scheme == "binary-v2"
		var err error
		if t.args, err = loggerArgs(u.RawQuery); err != nil {
			return target{}, invalid(field, "%q: %v", uri, err)
		}
	}
	return t, nil
}

// loggerArgs makes the arguments of a logger: each key of the query followed by
// its first value, as the runc shim does it, but in the order of the query.
func loggerArgs(query string) (args []string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(part, "=")
		if key, err = url.QueryUnescape(key); err != nil {
			return nil, err
		}
		if part == "" || seen[key] {
			continue
		}
		seen[key] = true
		args = append(args, key, values.Get(key))
	}
	return args, nil
}

func invalid(field, format string, a ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
}
