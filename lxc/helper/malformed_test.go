package helper

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// encode returns a message, changed: numbers at offsets of the message.
func encode(t testing.TB, ops ...initop.Op) []byte {
	t.Helper()
	msg, err := initop.Encode(ops)
	require.NoError(t, err)
	return msg
}

// put32 changes a number in a message.
func put32(msg []byte, at int, v uint32) []byte {
	binary.LittleEndian.PutUint32(msg[at:], v)
	return msg
}

// The first operation of a message that has one before it, which writes a
// byte to descriptor 0, is here.
const second = initop.HeaderSize + 24

func TestMalformedMessagesDoNothing(t *testing.T) {
	with := func(ops ...initop.Op) []byte {
		return encode(t, append([]initop.Op{initop.WriteFD(0, []byte("done"))}, ops...)...)
	}
	lookup, run := initop.Lookup(busybox, ""), initop.Exec([]string{"busybox", "touch", "/never"}, []string{"A=b"})
	for _, tt := range []struct {
		name string
		msg  []byte
		fds  int
	}{
		{"magic", put32(with(), 0, 1), 1},
		{"version", put32(with(), 4, 1<<16|2), 1},
		{"more descriptors than said", with(), 2},
		{"fewer descriptors than said", with(), 0},
		{"too many descriptors", put32(with(), 4, 251<<16|1), 251},
		{"header ends early", with()[:10], 1},
		{"body ends early", with()[:second-1], 1},
		{"length over the limit", put32(with(), 12, initop.MaxMessage+8), 1},
		{"length not a multiple of 8", put32(with(), 12, 23), 1},
		{"fewer operations than said", put32(with(), 8, 2), 1},
		{"more operations than said", put32(with(initop.SetSID()), 8, 1), 1},
		{"very many operations", put32(with(), 8, 1<<32-1), 1},
		{"unknown operation", put32(with(initop.SetSID()), second, 33), 1},
		{"operation 0", put32(with(initop.SetSID()), second, 0), 1},
		{"large operation code", put32(with(initop.SetSID()), second, 1<<32-1), 1},
		{"operation longer than the message", put32(with(initop.Umask(0)), second+4, 9), 1},
		{"operation of the greatest length", put32(with(initop.Umask(0)), second+4, 1<<32-1), 1},
		{"operation too short", put32(with(initop.SetCaps(0, 0, 0)), second+4, 20), 1},
		{"operation too long", put32(with(initop.Umask(0)), second+4, 5), 1},
		{"padding", put32(with(initop.Umask(0)), second+12, 1), 1},
		{"descriptor out of range", put32(with(initop.JoinCgroup(0)), second+8, 1), 1},
		{"negative descriptor", put32(with(initop.JoinCgroup(0)), second+8, 1<<32-1), 1},
		{"dup2 target", put32(with(initop.Dup2(0, 0)), second+12, 10), 1},
		{"controlling terminal", put32(with(initop.SetCTTY(0)), second+8, 10), 1},
		{"groups", put32(with(initop.SetGroups([]uint32{1})), second+4, 3), 1},
		{"no end of string", put32(with(initop.Chdir("/abcdef")), second+12, 0x66656463), 1},
		{"two strings", put32(with(initop.Chdir("/abcdef")), second+8, 0x00006261), 1},
		{"seccomp not of instructions", put32(with(initop.Seccomp(make([]byte, 16), 0)), second+4, 20), 1},
		{"seccomp without instructions", put32(with(initop.Seccomp(make([]byte, 8), 0)), second+4, 8), 1},
		{"nothing to try", put32(with(initop.TryChdir("/abcdef")), second+12, 0x66656463), 1},
		{"two directories to try again", put32(with(initop.RetryChdir("/abcdef")), second+8, 0x00006261), 1},
		{"write to a descriptor out of range", put32(with(initop.WriteAt(0, "a", "b")), second+8, 1), 1},
		{"write with a reserved number", put32(with(initop.WriteAt(0, "a", "b")), second+12, 1), 1},
		{"write without data", put32(with(initop.WriteAt(0, "a", "b")), second+16, 0x00626161), 1},
		{"write of three strings", put32(with(initop.WriteAt(0, "abc", "def")), second+16, 0x00610061), 1},
		{"memory policy with a reserved number", put32(with(initop.Mempolicy(1, []int{0})), second+12, 1), 1},
		{"memory policy of part of a mask", put32(with(initop.Mempolicy(1, []int{0})), second+4, 12), 1},
		{"affinity to nothing", put32(with(initop.Affinity([]int{0})), second+4, 0), 1},
		{"affinity to part of a mask", put32(with(initop.Affinity([]int{0, 64})), second+4, 12), 1},
		{"lookup of more paths", put32(with(lookup), second+8, 2), 1},
		{"lookup of no path", put32(with(lookup), second+8, 0), 1},
		{"lookup kind", put32(with(lookup), second+12, 2), 1},
		{"exec without lookup", with(run), 1},
		{"exec before the end", execFirst(t), 1},
		{"exec of more arguments", put32(with(lookup, run), second+8+24+8, 5), 1},
		{"exec of fewer arguments", put32(with(lookup, run), second+8+24+8, 2), 1},
		{"exec without arguments", put32(with(lookup, run), second+8+24+8, 0), 1},
		{"exec of very many arguments", put32(with(lookup, run), second+8+24+8, 1<<32-1), 1},
		{"exec of very many variables", put32(with(lookup, run), second+8+24+12, 1<<32-1), 1},
		{"exec with pointers", put32(with(lookup, run), second+8+24+16, 8), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decode(tt.msg, false)
			require.False(t, err == nil && tt.fds == 1, "the case is not one")
			f := tempFile(t)
			conn, c := waiting(t)
			r, err := sendRaw(conn, tt.msg, tt.fds, f)
			require.NoError(t, err)
			assert.EqualValues(t, initop.ReplyMalformed, r.kind)
			<-c.Done()
			assert.Equal(t, initop.ExitMalformed, c.Exit().Status)
			done, err := os.ReadFile(f.Name())
			require.NoError(t, err)
			assert.Empty(t, done)
		})
	}
	assert.NoFileExists(t, "/never")
}

// execFirst has an operation after Exec.
func execFirst(t *testing.T) []byte {
	msg := encode(t, initop.WriteFD(0, []byte("done")), initop.Lookup(busybox, ""), initop.Exec([]string{"busybox"}, nil))
	tail := encode(t, initop.Umask(0))[initop.HeaderSize:]
	msg = put32(append(msg, tail...), 8, 4)
	return put32(msg, 12, uint32(len(msg)-initop.HeaderSize))
}

// sendRaw sends bytes, and as many descriptors of f, then nothing more.
func sendRaw(c *Conn, msg []byte, fds int, f *os.File) (reply, error) {
	var rights []byte
	if fds > 0 {
		rights = unix.UnixRights(slices.Repeat([]int{int(f.Fd())}, fds)...)
	}
	if _, _, err := c.conn.WriteMsgUnix(msg, rights, nil); err != nil {
		return reply{}, err
	}
	if err := c.conn.CloseWrite(); err != nil {
		return reply{}, err
	}
	return c.receive()
}

func TestMessagesMayArriveInPieces(t *testing.T) {
	conn, _ := waiting(t)
	f := tempFile(t)
	msg := encode(t, initop.WriteFD(0, []byte("done")))
	_, _, err := conn.conn.WriteMsgUnix(msg[:1], unix.UnixRights(int(f.Fd())), nil)
	require.NoError(t, err)
	for _, b := range msg[1:] {
		_, err := conn.conn.Write([]byte{b})
		require.NoError(t, err)
	}
	r, err := conn.receive()
	require.NoError(t, err)
	assert.EqualValues(t, initop.ReplyOK, r.kind)
}

// parser is the helper's validation, see testdata/parser.c.
type parser struct {
	in  io.Writer
	out *bufio.Reader
}

func newParser(tb testing.TB) *parser {
	tb.Helper()
	cmd := exec.Command(filepath.Join(built, "parser"))
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	cmd.Stderr = os.Stderr
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // or the reaper was first
	})
	return &parser{in, bufio.NewReader(out)}
}

func (p *parser) valid(tb testing.TB, msg []byte, lookedUp bool) bool {
	tb.Helper()
	frame := binary.LittleEndian.AppendUint32(nil, uint32(len(msg)))
	frame = append(frame, 0, 0, 0, 0)
	if lookedUp {
		frame[4] = 1
	}
	_, err := p.in.Write(append(frame, msg...))
	require.NoError(tb, err)
	answer, err := p.out.ReadByte()
	require.NoError(tb, err, "the parser has crashed")
	return answer == '1'
}

// every has each operation.
func every() []initop.Op {
	return []initop.Op{
		initop.ResetSignals(), initop.Dup2(0, 1), initop.SetSID(), initop.SetCTTY(0), initop.Umask(0o22),
		initop.RLimit(unix.RLIMIT_NOFILE, 10, 20), initop.SetGroups([]uint32{1, 2}), initop.SetGroups(nil), initop.SetGID(1),
		initop.SetUID(1), initop.KeepCaps(), initop.DropBounding(1), initop.SetCaps(1, 2, 3), initop.SetAmbient(1),
		initop.NoNewPrivs(), initop.Chdir("/tmp"), initop.Personality(1), initop.Seccomp(refuse(1), 0), initop.CloseFrom(3),
		initop.JoinCgroup(0), initop.SetNS(1, 2), initop.WriteFD(0, []byte("data")), initop.SessionKeyring(), initop.Unshare(unix.CLONE_NEWCGROUP), initop.FSOpen("tmpfs"), initop.Fork(),
		initop.WriteAt(0, "self/attr/exec", "exec profile"), initop.Mempolicy(2, []int{0, 70}), initop.Mempolicy(0, nil),
		initop.Affinity([]int{0, 1, 64}), initop.TryChdir("/tmp"), initop.RetryChdir("/tmp"), initop.Seccomp(refuse(1), unix.SECCOMP_FILTER_FLAG_NEW_LISTENER),
		initop.Lookup("sh", "/bin:/usr/bin"), initop.Lookup("sh", ""), initop.Lookup("/bin/sh", ""),
		initop.Exec([]string{"sh", ""}, []string{"A=b"}),
	}
}

func seed(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(encode(f, every()...), false)
	for _, o := range every() {
		f.Add(encode(f, o), o.Code() == initop.CodeExec)
	}
	f.Add(encode(f, initop.Lookup("/marker", ""), initop.Exec([]string{"marker"}, nil)), false)
}

// FuzzParser compares the helper's validation, under sanitizers, with decode.
func FuzzParser(f *testing.F) {
	seed(f)
	p := newParser(f)
	f.Fuzz(func(t *testing.T, msg []byte, lookedUp bool) {
		_, err := decode(msg, lookedUp)
		require.Equal(t, err == nil, p.valid(t, msg, lookedUp), "%v", err)
	})
}

// FuzzEncode checks that the helper accepts whatever Encode makes.
func FuzzEncode(f *testing.F) {
	f.Add("sh", "/bin:/usr/bin", "x", 1, []byte("12345678"), uint32(7))
	f.Add("/bin/sh", "", "", 10, []byte("\x00"), uint32(0))
	p := newParser(f)
	f.Fuzz(func(t *testing.T, name, path, arg string, n int, data []byte, u uint32) {
		all := []initop.Op{
			initop.Lookup(name, path), initop.Chdir(path), initop.Dup2(initop.FD(n), int(u)), initop.SetCTTY(n),
			initop.Seccomp(data, u), initop.WriteFD(initop.FD(n), data), initop.SetNS(initop.FD(n), int(u)),
			initop.WriteAt(initop.FD(n), path, arg), initop.Mempolicy(u, []int{n, int(u)}), initop.Affinity([]int{n, int(u)}),
			initop.TryChdir(path), initop.RetryChdir(arg),
			initop.CloseFrom(n), initop.RLimit(n, uint64(u), uint64(n)), initop.SetGroups([]uint32{u, 1}),
			initop.Exec([]string{arg, name}, []string{path, arg}), initop.Exec(nil, []string{path}),
		}
		for _, o := range all {
			msg, err := initop.Encode([]initop.Op{o})
			if err == nil {
				require.True(t, p.valid(t, msg, true), o.String())
			}
		}
	})
}

// FuzzHelper sends bytes to the real helper, in a place where it can do no
// harm: it executes nothing unless decode accepts them.
func FuzzHelper(f *testing.F) {
	seed(f)
	dir := f.TempDir()
	require.NoError(f, os.Chmod(dir, 0o755))
	copyFile(f, "nexcage-init", filepath.Join(dir, "init"))
	copyFile(f, "marker", filepath.Join(dir, "marker"))
	null, err := os.Open(os.DevNull)
	require.NoError(f, err)
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, msg []byte, _ bool) {
		msg = first(msg)
		files := make([]int, said(msg))
		for i := range files {
			files[i] = int(null.Fd())
		}
		codes, err := decode(msg, false)
		if err == nil && slices.Contains(codes, initop.CodeFork) {
			t.Skip("it would make a process that nobody waits for")
		}
		code := runRaw(t, dir, msg, files)
		switch {
		case len(msg) == 0:
			require.Equal(t, initop.ExitEOF, code)
		case err == nil:
			require.Contains(t, []int{42, initop.ExitFailed, initop.ExitEOF}, code)
		default:
			require.Equal(t, initop.ExitMalformed, code, "%v", err)
		}
	})
}

// first cuts off what the helper would take for a second message.
func first(msg []byte) []byte {
	if len(msg) < initop.HeaderSize {
		return msg
	}
	end := initop.HeaderSize + uint64(binary.LittleEndian.Uint32(msg[12:]))
	return msg[:min(end, uint64(len(msg)))]
}

// said is how many descriptors a message says it has.
func said(msg []byte) int {
	if len(msg) < initop.HeaderSize {
		return 0
	}
	return min(int(binary.LittleEndian.Uint16(msg[6:])), initop.MaxFDs)
}

// runRaw runs the helper, as nobody and in dir, on one message, and returns
// its exit code.
func runRaw(t *testing.T, dir string, msg []byte, fds []int) int {
	t.Helper()
	s, end, err := pair()
	require.NoError(t, err)
	defer s.Close()
	cmd := exec.Command("/init", "3")
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, []*os.File{end}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	c := startChild(t, cmd)
	end.Close()
	if len(msg) > 0 {
		_, _, err = s.conn.WriteMsgUnix(msg, unix.UnixRights(fds...), nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.conn.CloseWrite())
	<-c.Done()
	return c.Exit().Status
}
