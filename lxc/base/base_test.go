package base

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRemoveTakesAllThatMakeLXCAndTheHelperMake(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "state", "base"))
	for range 2 { // a second Make finds the first
		require.NoError(t, d.Make())
	}
	require.NoError(t, os.Symlink("/proc/self/fd", d.join("dev/fd")))
	require.NoError(t, os.WriteFile(d.join(sockName), nil, 0o600))
	for range 2 {
		require.NoError(t, d.Remove())
		assert.NoDirExists(t, string(d))
	}
}

func TestRemoveKeepsWhatIsAStrangers(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "base"))
	require.NoError(t, d.Make())
	kept := d.join("root/data")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.Error(t, d.Remove())
	assert.FileExists(t, kept)
}

func TestLinesBindTheHelper(t *testing.T) {
	lines := Lines("/opt/with blank/nexcage-init")
	assert.Equal(t, "/"+initName, lines[0].Value)
	assert.Equal(t, `/opt/with\040blank/nexcage-init init none bind,ro,nosuid,nodev 0 0`, lines[1].Value)
}
