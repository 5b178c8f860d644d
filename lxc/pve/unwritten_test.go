package pve

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var nobody = func(string, int) bool { return false }

// announced are the VMIDs that are on record as not written yet.
func announced(t *testing.T, n *Node) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(n.unwritten())
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAConfigurationThatWasNeverWrittenIsCollected(t *testing.T) {
	n := newNode(t)
	written := reserved(t, n, newConfig(t, "c1"))
	assert.Empty(t, announced(t, n))
	// A shim that was killed before the write, one before the creation, and one that had written.
	for _, vmid := range []int{900005, 900006, written} {
		require.NoError(t, n.announce(vmid))
	}
	for _, vmid := range []int{900005, 900007} {
		require.NoError(t, os.WriteFile(n.confPath(vmid), nil, 0o600))
	}
	removed, err := n.GC(t.Context(), func(string, int) bool { return true })
	require.NoError(t, err)
	assert.Empty(t, removed)
	assert.Empty(t, announced(t, n))
	assert.NoFileExists(t, n.confPath(900005))
	assert.FileExists(t, n.confPath(900007), "nobody has announced it")
	assert.FileExists(t, n.confPath(written))
}

func TestAConfigurationThatIsBeingWrittenIsLeftAlone(t *testing.T) {
	n := newNode(t)
	l, err := n.tryLock(900005)
	require.NoError(t, err)
	require.NoError(t, n.announce(900005))
	require.NoError(t, os.WriteFile(n.confPath(900005), nil, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = n.GC(ctx, nobody)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	assert.FileExists(t, n.confPath(900005))
	l.release()
	_, err = n.GC(t.Context(), nobody)
	require.NoError(t, err)
	assert.NoFileExists(t, n.confPath(900005))
}

func TestAClaimThatFailsIsForgotten(t *testing.T) {
	n := newNode(t)
	vmid := reserved(t, n, newConfig(t, "c1"))
	other := newConfig(t, "c2")
	other.VMID = vmid
	require.ErrorIs(t, n.Reserve(t.Context(), &Client{}, other, func(int) error { return errors.New("not reached") }), errdefs.ErrAlreadyExists)
	assert.Empty(t, announced(t, n))
}
