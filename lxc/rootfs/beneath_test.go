package rootfs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// elsewhere runs a script in a mount namespace of its own, up to its first line of output.
func elsewhere(t *testing.T, script string, args ...string) (pid int, process *os.File) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-e", "-c", script + "; echo ready; exec cat", "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, in.Close())
		assert.NoError(t, cmd.Wait())
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	require.NoError(t, err)
	process = os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { assert.NoError(t, process.Close()) })
	return cmd.Process.Pid, process
}

// content reads a file below a mount that is attached nowhere.
func content(t *testing.T, tree *os.File, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", tree.Fd(), name))
	require.NoError(t, err)
	return string(text)
}

// What another mount namespace has beneath a directory is found, with what is
// mounted in it, and is uncovered there; the host sees nothing of it.
func TestBeneath(t *testing.T) {
	place, cover := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(cover, "base"), nil, 0o600))
	pid, process := elsewhere(t, `mount -t tmpfs volume "$1"; echo written >"$1/file"; mkdir "$1/more"; mount -t tmpfs more "$1/more"
		echo below >"$1/more/file"; mount --bind "$2" "$1"; test -e "$1/base"`, place, cover)
	for range 2 { // the second time it is uncovered already
		tree, err := Beneath(process, place, cover)
		require.NoError(t, err)
		assert.Equal(t, "written\n", content(t, tree, "file"))
		assert.Equal(t, "below\n", content(t, tree, "more/file"))
		require.NoError(t, tree.Close())
	}
	assert.FileExists(t, fmt.Sprintf("/proc/%d/root%s/file", pid, place))
	here, err := os.ReadDir(place)
	require.NoError(t, err)
	assert.Empty(t, here)
	assert.FileExists(t, filepath.Join(cover, "base"))
}

func TestBeneathNothing(t *testing.T) {
	place, cover := t.TempDir(), t.TempDir()
	_, process := elsewhere(t, `mount --bind "$1" "$1"`, cover) // over itself
	_, err := Beneath(process, cover, cover)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.ErrorContains(t, err, "nothing is mounted beneath")
	_, err = Beneath(process, filepath.Join(place, "none"), cover)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestRemoveEmptyLeavesTheRest(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc/vzdump", "full/dir", "outside"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "full/dir/file"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	require.NoError(t, os.Symlink(filepath.Join(root, "outside"), filepath.Join(root, "link")))
	require.NoError(t, os.Symlink(root, filepath.Join(root, "way")))
	dir, err := os.Open(root)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, RemoveEmpty(dir, []string{"etc/vzdump", "etc", "full/dir", "full", "file", "link", "way/outside", "none/at/all"}))
	assert.NoDirExists(t, filepath.Join(root, "etc"))
	for _, path := range []string{"full/dir/file", "file", "link", "outside"} {
		_, err := os.Lstat(filepath.Join(root, path))
		assert.NoError(t, err, path)
	}
}
