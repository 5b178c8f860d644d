package stdio

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestURIs(t *testing.T) {
	for _, tt := range []struct {
		name, uri string
		want      target
	}{
		{"empty", "", target{}},
		{"path", "/run/x y?z%41", target{kind: kindFIFO, path: "/run/x y?z%41"}},
		{"fifo", "fifo:///run/x%20y", target{kind: kindFIFO, path: "/run/x y"}},
		{"file", "file:///var/log/x", target{kind: kindFile, path: "/var/log/x"}},
		{"logger", "binary:///bin/l", target{kind: kindBinary, path: "/bin/l"}},
		{"logger with arguments", "binary:///bin/l?z=1&a=%2Fb+c&-f&z=2", target{kind: kindBinary, path: "/bin/l", args: []string{"z", "1", "a", "/b c", "-f", ""}}},
		{"strict logger", "binary-v2:///bin/l?a=b", target{kind: kindBinary, path: "/bin/l", args: []string{"a", "b"}, strict: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.uri = tt.uri
			got, err := parseOutput("stdout", tt.uri)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestURIsThatCannotBe(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
		want   string
	}{
		{"scheme", Config{Stdout: "npipe:///x"}, `stdout: scheme "npipe" of "npipe:///x" is not one of fifo, file, binary, binary-v2: invalid argument`},
		{"field", Config{Stderr: "x:///y"}, `stderr: scheme "x" of`},
		{"stdin is a FIFO", Config{Stdin: "file:///x"}, `stdin: scheme "file" of "file:///x" is not one of fifo: `},
		{"relative", Config{Stdout: "x"}, `stdout: scheme "" of "x" is not`},
		{"host", Config{Stdout: "file://x/y"}, `stdout: "file://x/y" has no absolute path: write file:///path`},
		{"no path", Config{Stdout: "binary://"}, `has no absolute path`},
		{"not a URI", Config{Stdout: "fifo://%zz"}, `stdout: parse`},
		{"query", Config{Stdout: "binary:///x?%zz"}, `stdout: "binary:///x?%zz": invalid URL escape`},
		{"terminal", Config{Stdout: "npipe:///x", Terminal: true}, `stdout: scheme "npipe"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			_, err := Open(t.Context(), tt.config)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func FuzzURI(f *testing.F) {
	for _, uri := range []string{"", "/x", "fifo:///x", "file:///x", "binary:///x?a=b&c", "binary-v2:///x?%20=%3d", "x://", "%"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		got, err := parseOutput("stdout", uri)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		assert.Equal(t, uri, got.uri)
		assert.Equal(t, uri != "", filepath.IsAbs(got.path), "path %q", got.path)
		assert.Zero(t, len(got.args)%2, "keys and values")
	})
}
