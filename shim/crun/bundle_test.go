package crun

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReplaceVersionChangesNothingElse(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"first": {
			`{"ociVersion":"1.3.0","process":{"args":["a"]}}`,
			`{"ociVersion":"1.1.0","process":{"args":["a"]}}`,
		},
		"last, with white space": {
			"{\n  \"hostname\" : \"x\",\n  \"ociVersion\"\t:  \"1.2.0\" \n}\n",
			"{\n  \"hostname\" : \"x\",\n  \"ociVersion\"\t:  \"1.1.0\" \n}\n",
		},
		"not the one further down": {
			`{"x":{"ociVersion":"1.3.0"},"big":18446744073709551615,"ociVersion":"1.3.0","u":"<&é"}`,
			`{"x":{"ociVersion":"1.3.0"},"big":18446744073709551615,"ociVersion":"1.1.0","u":"<&é"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := replaceVersion([]byte(tc.in), "1.1.0")
			require.NoError(t, err)
			assert.Equal(t, tc.want, string(got))
		})
	}
}

func TestReplaceVersionNeedsOne(t *testing.T) {
	_, err := replaceVersion([]byte(`{"root":{}}`), "1.1.0")
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	for _, in := range []string{``, `{`, `{"ociVersion"`, `{"root":`} {
		_, err := replaceVersion([]byte(in), "1.1.0")
		assert.Error(t, err, in)
	}
}

func FuzzReplaceVersion(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}], "ociVersion" : "1.3.0","c":1e3}`))
	f.Add([]byte(`{"ociVersion":{"ociVersion":1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var before, after map[string]json.RawMessage
		if json.Unmarshal(raw, &before) != nil || before["ociVersion"] == nil {
			return
		}
		got, err := replaceVersion(raw, "9")
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(got, &after))
		if len(before) == 1 {
			return // duplicates of the key keep their values
		}
		delete(before, "ociVersion")
		delete(after, "ociVersion")
		assert.Equal(t, before, after)
	})
}

func TestSetVersionKeepsModeAndOwner(t *testing.T) {
	dir := newBundle(t, &specs.Spec{Version: "1.3.0", Hostname: "x"})
	path := filepath.Join(dir, "config.json")
	require.NoError(t, os.Chown(path, 0, 100000))
	require.NoError(t, os.Chmod(path, 0o640))
	b, err := loadBundle(dir)
	require.NoError(t, err)
	require.NoError(t, b.setVersion("1.1.0"))

	st, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), st.Mode())
	assert.EqualValues(t, 100000, st.Sys().(*syscall.Stat_t).Gid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "config.json and rootfs, nothing temporary")
	again, err := loadBundle(dir)
	require.NoError(t, err)
	assert.Equal(t, b, again)
}

func TestABrokenBundleIsAnError(t *testing.T) {
	_, err := loadBundle(t.TempDir())
	assert.ErrorIs(t, err, os.ErrNotExist)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"ociVersion":`), 0o600))
	_, err = loadBundle(dir)
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.ErrorContains(t, err, dir)
}
