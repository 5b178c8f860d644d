package helper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// tree is a directory with things that can and can not be executed.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	for _, d := range []string{"a", "b/prog", "closed"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for path, mode := range map[string]os.FileMode{
		"a/plain": 0o644, "a/root-only": 0o700, "closed/prog": 0o755, "a/garbage": 0o755,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte("\x01\x02"), mode))
	}
	script := []byte("#!" + busybox + " sh\necho -n $0\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/prog"), script, 0o755))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "a/dangling")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "closed"), 0o700))
	return dir
}

func TestLookupFailsInTheWordsOfRunc(t *testing.T) {
	dir := tree(t)
	for _, tt := range []struct {
		name, prog, path string
		want             string
		errno            unix.Errno
	}{
		{"missing file", "/x", "/bin", `exec: "/x": stat /x: no such file or directory`, unix.ENOENT},
		{"directory", "/etc", "", `exec: "/etc": is a directory`, unix.EISDIR},
		{"not executable", "/etc/passwd", "", `exec: "/etc/passwd": permission denied`, unix.EACCES},
		{"not executable for the user", "DIR/a/root-only", "", `exec: "DIR/a/root-only": permission denied`, unix.EACCES},
		{"not reachable for the user", "DIR/closed/prog", "", `exec: "DIR/closed/prog": stat DIR/closed/prog: permission denied`, unix.EACCES},
		{"file as directory", "/etc/passwd/x", "", `exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory`, unix.ENOTDIR},
		{"dangling link", "DIR/a/dangling", "", `exec: "DIR/a/dangling": stat DIR/a/dangling: no such file or directory`, unix.ENOENT},
		{"relative with slash", "./no", "/bin", `exec: "./no": stat ./no: no such file or directory`, unix.ENOENT},
		{"not in path", "nosuch", "/bin:/usr/bin", `exec: "nosuch": executable file not found in $PATH`, unix.ENOENT},
		{"no path", "sh", "", `exec: "sh": executable file not found in $PATH`, unix.ENOENT},
		{"only unusable ones in path", "plain", "DIR/a:DIR/b", `exec: "plain": executable file not found in $PATH`, unix.ENOENT},
		{"only a directory in path", "prog", "DIR/b", `exec: "prog": executable file not found in $PATH`, unix.ENOENT},
		{"not searchable directory in path", "prog", "DIR/closed", `exec: "prog": executable file not found in $PATH`, unix.ENOENT},
		{"relative element of path", "prog", "DIR/b:a", `exec: "prog": cannot run executable found relative to current directory`, unix.ENOENT},
		{"empty name", "", "/bin", `exec: "": executable file not found in $PATH`, unix.ENOENT},
		{"empty element of path", "a", ":/bin", `exec: "a": executable file not found in $PATH`, unix.ENOENT},
		{"name too long", "/" + strings.Repeat("n", 4096), "", `exec: "/` + strings.Repeat("n", 4096) + `": stat /` + strings.Repeat("n", 4096) + `: file name too long`, unix.ENAMETOOLONG},
		{"name to be quoted", "/a\"\n", "", "exec: \"/a\\\"\\n\": stat /a\"\n: no such file or directory", unix.ENOENT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := strings.NewReplacer("DIR", dir)
			conn, c := waiting(t)
			ops := []initop.Op{
				initop.SetGID(65534), initop.SetUID(65534),
				initop.Chdir(dir),
				initop.Lookup(in.Replace(tt.prog), in.Replace(tt.path)),
			}
			err := conn.Run(t.Context(), ops)
			var failed *OpError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, in.Replace(tt.want), err.Error())
			assert.ErrorIs(t, err, tt.errno)
			assert.Equal(t, 3, failed.Index)
			<-c.Done()
			assert.Equal(t, initop.ExitFailed, c.Exit().Status)
		})
	}
}

func TestExecRunsWhatLookupFound(t *testing.T) {
	dir := tree(t)
	for _, tt := range []struct{ name, prog, path, want string }{
		{"absolute", "DIR/a/prog", "", "DIR/a/prog"},
		{"first usable one of path", "prog", "DIR/b:DIR/none:DIR/closed:DIR/a:/bin", "DIR/a/prog"},
		{"path is cleaned", "prog", "DIR//a/../a/", "DIR/a/prog"},
		{"relative with slash", "a/prog", "/bin", "a/prog"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := strings.NewReplacer("DIR", dir)
			conn, _ := waiting(t)
			r, w := pipe(t)
			require.NoError(t, conn.Run(t.Context(), []initop.Op{
				initop.SetGID(65534), initop.SetUID(65534), initop.Chdir(dir),
				initop.Dup2(0, 1), initop.Lookup(in.Replace(tt.prog), in.Replace(tt.path)),
			}, w))
			w.Close()
			start := []initop.Op{initop.Exec([]string{"not the name"}, nil)}
			require.NoError(t, conn.Exec(t.Context(), start))
			assert.Equal(t, in.Replace(tt.want), readAll(t, r))
		})
	}
}

func TestExecFailsInTheWordsOfRunc(t *testing.T) {
	dir := tree(t)
	for _, tt := range []struct {
		name string
		ops  []initop.Op
		env  []string
		want string
	}{
		{"format", []initop.Op{initop.Lookup("garbage", "/bin:"+dir+"/a")}, nil, "exec " + dir + "/a/garbage: exec format error"},
		{"too large", []initop.Op{initop.Lookup(busybox, "")}, []string{strings.Repeat("x", 1<<18)}, "exec /bin/busybox: argument list too long"},
	} {
		for _, together := range []bool{true, false} {
			t.Run(tt.name, func(t *testing.T) {
				conn, c := waiting(t)
				exec := []initop.Op{initop.Exec([]string{"x"}, tt.env)}
				if together {
					exec = append(tt.ops, exec...)
				} else {
					require.NoError(t, conn.Run(t.Context(), tt.ops))
				}
				require.EqualError(t, conn.Exec(t.Context(), exec), tt.want)
				<-c.Done()
				assert.Equal(t, initop.ExitFailed, c.Exit().Status)
			})
		}
	}
}

func TestChdirFailsInTheWordsOfRunc(t *testing.T) {
	conn, _ := waiting(t)
	err := conn.Run(t.Context(), []initop.Op{initop.Chdir("/x")})
	assert.EqualError(t, err, `chdir to cwd ("/x") set in config.json failed: no such file or directory`)
	assert.ErrorIs(t, err, unix.ENOENT)
}

func TestOtherOperationsFailWithTheirName(t *testing.T) {
	conn, _ := waiting(t)
	err := conn.Run(t.Context(), []initop.Op{initop.SetUID(1000), initop.SetUID(1001)})
	assert.EqualError(t, err, `setuid 1001 failed: operation not permitted`)
}
