package crun

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnEngineIsRememberedUntilItsFileChanges(t *testing.T) {
	dir, path := filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "crun")
	require.NoError(t, os.WriteFile(path, []byte("one"), 0o755))
	e := &engine{path: path, name: "crun", version: version{1, 8, 1}, parts: []string{"+SECCOMP"}}

	assert.Nil(t, recall(dir, path), "before it was asked")
	require.NoError(t, e.remember(dir))
	assert.Equal(t, e, recall(dir, path))

	require.NoError(t, os.WriteFile(path, []byte("another"), 0o755))
	assert.Nil(t, recall(dir, path), "after an upgrade")
}

func TestADamagedRecordIsNotUsed(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "crun")
	require.NoError(t, os.WriteFile(path, nil, 0o755))
	require.NoError(t, os.WriteFile(cacheFile(dir, path), []byte("{"), 0o600))
	assert.Nil(t, recall(dir, path))
}
