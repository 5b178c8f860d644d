package cgroup

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPath(t *testing.T) {
	for name, tc := range map[string]struct {
		path string
		want string
		err  error
	}{
		"absolute":         {path: "/default/c1", want: "default/c1"},
		"relative":         {path: "docker/c1", want: "docker/c1"},
		"none":             {path: "", want: "lxc/ns/c1"},
		"not clean":        {path: "//a/./b//", want: "a/b"},
		"dots in a name":   {path: "/a..b/..c", want: "a..b/..c"},
		"colons in a name": {path: "/a:b:c", want: "a:b:c"},
		"up":               {path: "/a/../../etc", err: errdefs.ErrInvalidArgument},
		"up at the end":    {path: "a/..", err: errdefs.ErrInvalidArgument},
		"root":             {path: "/", err: errdefs.ErrInvalidArgument},
		"newline":          {path: "/a\nlxc.init.cmd = /x", err: errdefs.ErrInvalidArgument},
		"NUL":              {path: "/a\x00", err: errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Path(tc.path, "/lxc/ns/c1")
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
				assert.ErrorContains(t, err, "linux.cgroupsPath: ")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/b", "a.slice:b:c", "/a/../..", "", "/\n", "..", "/a/..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Path(s, "fallback")
		if err != nil {
			return
		}
		assert.NotEmpty(t, p)
		assert.False(t, strings.HasPrefix(p, "/"))
		assert.NotContains(t, strings.Split(p, "/"), "..")
		assert.NotContains(t, p, "\n")
	})
}
