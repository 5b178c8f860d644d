package oci

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	s, err := Parse([]byte(`{"ociVersion": "1.0.0", "unknown": {"x": 1}, "linux": {"resources": {"new": 1}}}`))
	require.NoError(t, err, "unknown properties are ignored")
	assert.Equal(t, "1.0.0", s.Version)

	for _, c := range []struct{ name, in, want string }{
		{"wrong type", `{"process": {"args": ["a", 1]}}`, "process.args: a JSON number can not be a string"},
		{"deep", `{"linux": {"resources": {"memory": {"limit": "1g"}}}}`, "linux.resources.memory.limit: a JSON string can not be a int64"},
		{"negative id", `{"process": {"user": {"uid": -1}}}`, "process.user.uid: a JSON number -1 can not be a uint32"},
		{"in an array", `{"mounts": [{"options": "ro"}]}`, "mounts.options: a JSON string can not be a []string"},
		{"null", `null`, "no JSON object, but null: invalid argument"},
		{"not JSON", `{`, "not valid JSON: unexpected end of JSON input: invalid argument"},
		{"two values", `{} {}`, "not valid JSON: invalid character '{' after top-level value: invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.in))
			assert.EqualError(t, err, c.want)
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")

	_, err := Load(dir)
	assert.ErrorIs(t, err, errdefs.ErrNotFound)
	assert.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, os.WriteFile(config, []byte(`{"ociVersion": "1.0.0"}`), 0o600))
	s, err := Load(dir)
	require.NoError(t, err)
	assert.Equal(t, "1.0.0", s.Version)

	require.NoError(t, os.WriteFile(config, []byte(`{"hostname": 1}`), 0o600))
	_, err = Load(dir)
	assert.EqualError(t, err, config+": hostname: a JSON number can not be a string")
	var field *FieldError
	assert.ErrorAs(t, err, &field)

	require.NoError(t, os.WriteFile(config, []byte(strings.Repeat(" ", maxConfig+1)), 0o600))
	_, err = Load(dir)
	assert.EqualError(t, err, config+": larger than 10 MiB: invalid argument")
}
