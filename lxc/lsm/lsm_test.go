package lsm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAppArmorIsOnIfItsParameterSaysSo(t *testing.T) {
	for content, want := range map[string]bool{"Y\n": true, "N\n": false, "": false} {
		file := filepath.Join(t.TempDir(), "enabled")
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		assert.Equal(t, want, enabled(file), "%q", content)
	}
	assert.False(t, enabled(filepath.Join(t.TempDir(), "none")))
}

func TestADirectoryIsNotSELinux(t *testing.T) {
	assert.False(t, isSELinuxFS(t.TempDir()))
	assert.False(t, isSELinuxFS("/nowhere"))
}

// The kernel's own list of modules says the same.
func TestModulesAreThoseOfTheKernel(t *testing.T) {
	list, err := os.ReadFile("/sys/kernel/security/lsm")
	if os.IsNotExist(err) {
		t.Skip("securityfs is not mounted")
	}
	require.NoError(t, err)
	for name, on := range map[string]bool{"apparmor": AppArmor(), "selinux": SELinux()} {
		if on {
			assert.Contains(t, string(list), name)
		}
	}
}
