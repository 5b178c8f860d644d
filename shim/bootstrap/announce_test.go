package bootstrap

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serving is a shim's socket, whose server does what register tells it.
func serving(t *testing.T, register func(*ttrpc.Server)) (address string) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	server, err := ttrpc.NewServer()
	require.NoError(t, err)
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		assert.ErrorIs(t, <-done, ttrpc.ErrServerClosed)
	})
	return "unix://" + path
}

func TestTheShimIsToldOfAContainer(t *testing.T) {
	var told string
	for name, tt := range map[string]struct {
		register func(*ttrpc.Server)
		want     error
	}{
		"it stays": {func(s *ttrpc.Server) { RegisterExpect(s, func(id string) error { told = id; return nil }) }, nil},
		"it ends": {func(s *ttrpc.Server) {
			RegisterExpect(s, func(string) error { return fmt.Errorf("too late: %w", errdefs.ErrUnavailable) })
		}, errEnding},
		"it fails": {func(s *ttrpc.Server) {
			RegisterExpect(s, func(string) error { return errdefs.ErrInternal })
		}, errdefs.ErrInternal},
		"it is of an older version": {func(*ttrpc.Server) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			told = ""
			err := announce(t.Context(), serving(t, tt.register), "c1")
			require.ErrorIs(t, err, tt.want)
			if name == "it stays" {
				assert.Equal(t, "c1", told)
			}
		})
	}
}

func TestAShimThatHangsUpIsEnding(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	require.ErrorIs(t, announce(t.Context(), "unix://"+path, "c1"), errEnding, "no socket")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_ = conn.Close()
		}
	}()
	require.ErrorIs(t, announce(t.Context(), "unix://"+path, "c1"), errEnding)
	require.ErrorIs(t, announce(t.Context(), "unix://"+deadSocket(t), "c1"), errEnding, "nobody listens")
}
