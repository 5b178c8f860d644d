package stdio

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// NFS, and file systems with quotas, may tell only at close(2) that there was no
// room. A descriptor that is closed already stands for them.
func TestAFileThatCannotBeClosedIsReported(t *testing.T) {
	s, err := openSink(context.Background(), target{kind: kindFile, path: filepath.Join(t.TempDir(), "log")})
	require.NoError(t, err)
	require.NoError(t, s.file.Close())
	linger, err := s.close()
	assert.ErrorIs(t, err, os.ErrClosed)
	assert.False(t, linger)
}
