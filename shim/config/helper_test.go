package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFindHelper(t *testing.T) {
	dir := t.TempDir()
	shim, beside := filepath.Join(dir, "containerd-shim-nexcage-v2"), filepath.Join(dir, "nexcage-init")
	named := filepath.Join(dir, "helper")
	require.NoError(t, os.WriteFile(beside, nil, 0o755))
	require.NoError(t, os.WriteFile(named, nil, 0o755))

	got, err := (&LXC{}).FindHelper(shim)
	require.NoError(t, err)
	assert.Equal(t, beside, got)

	got, err = (&LXC{Helper: named}).FindHelper(shim)
	require.NoError(t, err)
	assert.Equal(t, named, got)
}

func TestFindHelperTakesNoOtherThanTheConfiguredOne(t *testing.T) {
	dir := t.TempDir()
	named := filepath.Join(dir, "helper")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nexcage-init"), nil, 0o755))
	require.NoError(t, os.WriteFile(named, nil, 0o644)) // not executable

	_, err := (&LXC{Helper: named}).FindHelper(filepath.Join(dir, "shim"))
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.ErrorContains(t, err, named)
}
