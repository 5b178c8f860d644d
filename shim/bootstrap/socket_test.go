package bootstrap

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestASocketIsForRootOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "s")
	l, err := claim(dir, "unix://"+dir+"/x")
	require.NoError(t, err)
	defer l.Close()
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | 0o700, dir + "/x": os.ModeSocket | 0o600} {
		i, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, i.Mode())
	}
}

func TestASocketThatIsServedIsLeftAlone(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "x")
	first, err := claim(filepath.Dir(pathOf(address)), address)
	require.NoError(t, err)
	defer first.Close()
	second, err := claim(filepath.Dir(pathOf(address)), address)
	require.NoError(t, err)
	assert.Nil(t, second)
	_, err = os.Stat(pathOf(address))
	require.NoError(t, err)
}

// A shim that has more callers than it has answered is no dead one.
func TestASocketWhoseQueueIsFullIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	first, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer first.Close()
	served, err := removeDead(path)
	require.NoError(t, err)
	assert.True(t, served)
}

func TestADeadSocketIsReplaced(t *testing.T) {
	path := deadSocket(t)
	l, err := claim(filepath.Dir(path), "unix://"+path)
	require.NoError(t, err)
	require.NotNil(t, l)
	defer l.Close()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestOneOfManyGetsTheSocket(t *testing.T) {
	for range 20 {
		path := deadSocket(t)
		var got atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := claim(filepath.Dir(path), "unix://"+path)
				assert.NoError(t, err)
				if l != nil {
					got.Add(1)
					t.Cleanup(func() { _ = l.Close() })
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, got.Load())
	}
}

func TestASocketThatCannotBeMadeIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := claim(file, "unix://"+file+"/x")
	require.ErrorIs(t, err, unix.ENOTDIR)
}

func TestRemoveSocketRemovesThatOfADeadShimAlone(t *testing.T) {
	dead, dir := deadSocket(t), t.TempDir()
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	require.NoError(t, err)
	defer live.Close()
	for name, tt := range map[string]struct {
		address string // content of the file; "" for none
		path    string
		gone    bool
	}{
		"dead":           {"unix://" + dead, dead, true},
		"live":           {"unix://" + dir + "/live", dir + "/live", false},
		"gone already":   {"unix://" + dir + "/none", dir + "/none", true},
		"no directory":   {"unix://" + dir + "/none/x", dir + "/none/x", true},
		"without a file": {"", dir + "/live", false},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			if tt.address != "" {
				require.NoError(t, os.WriteFile(filepath.Join(bundle, "address"), []byte(tt.address), 0o600))
			}
			require.NoError(t, RemoveSocket(bundle))
			_, err := os.Lstat(tt.path)
			assert.Equal(t, tt.gone, os.IsNotExist(err))
		})
	}
}

// deadSocket is one that its process has left behind.
func deadSocket(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "x")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	return path
}
