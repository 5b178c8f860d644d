package vm

import (
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// connected returns a client of an agent at the other end of a connection.
func connected(t *testing.T) *Client {
	host, guest, err := socketpair()
	require.NoError(t, err)
	l := &oneConn{conn: portConn{guest}, closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- serve(l, (&agent{}).handler()) }()
	t.Cleanup(func() {
		require.NoError(t, host.Close())
		require.NoError(t, l.Close())
		assert.Error(t, <-served)
	})
	return newClient(host)
}

func TestAFileArrivesAndComesBack(t *testing.T) {
	c := connected(t)
	require.NoError(t, c.Ping(t.Context()))
	path := filepath.Join(t.TempDir(), "new", "file")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	require.NoError(t, c.Put(t.Context(), path, 0o750, bytes.NewReader(want)))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o750), info.Mode())
	r, err := c.Get(t.Context(), path)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got))
}

func TestAMissingFileIsAnError(t *testing.T) {
	_, err := connected(t).Get(t.Context(), "/no/such")
	assert.ErrorContains(t, err, "/no/such")
}

func TestFramesOfACommand(t *testing.T) {
	rec := httptest.NewRecorder()
	f := &frames{w: rec}
	f.write(frameStdout, []byte("out"))
	f.write(frameStderr, []byte("err"))
	f.write(frameStdout, []byte("put"))
	f.write(frameExit, []byte("7"))
	full := rec.Body.String()
	var stdout, stderr strings.Builder
	code, err := readFrames(strings.NewReader(full), Command{Stdout: &stdout, Stderr: &stderr})
	require.NoError(t, err)
	assert.Equal(t, 7, code)
	assert.Equal(t, "output", stdout.String())
	assert.Equal(t, "err", stderr.String())

	_, err = readFrames(strings.NewReader(full[:len(full)-3]), Command{Args: []string{"it"}})
	assert.ErrorContains(t, err, `how ["it"] ended`, "a response that breaks off is no success")
}

func TestACommandThatCannotRunIsAnError(t *testing.T) {
	rec := httptest.NewRecorder()
	(&frames{w: rec}).write(frameError, []byte("no systemd"))
	_, err := readFrames(rec.Body, Command{})
	assert.ErrorContains(t, err, "no systemd")
}

func TestThePortIsFoundByItsName(t *testing.T) {
	class, dev := t.TempDir(), t.TempDir()
	for port, name := range map[string]string{"vport0p1": "other\n", "vport0p2": portName + "\n"} {
		require.NoError(t, os.Mkdir(filepath.Join(class, port), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dev, port), nil, 0o644))
	}
	f, err := openPort(class, dev)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dev, "vport0p2"), f.Name())
	require.NoError(t, f.Close())
	_, err = openPort(t.TempDir(), dev)
	assert.ErrorContains(t, err, portName)
}

func TestTheKeyOfAnImage(t *testing.T) {
	for _, d := range Distributions {
		one, err := FindImage("/cache", d)
		require.NoError(t, err)
		assert.Regexp(t, "^/cache/"+d+"-[0-9a-f]{12}[.]ext4$", one.Root)
	}
	_, err := FindImage("/cache", "potato")
	assert.ErrorContains(t, err, `"potato" is none of`)
}
