package initop

import (
	"bytes"
	"encoding/binary"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNumbersAreThoseOfTheHelper(t *testing.T) {
	want := map[string]int{
		"MAGIC": Magic, "VERSION": Version, "MAX_MESSAGE": MaxMessage, "MAX_FDS": MaxFDs,
		"MAX_TARGET": MaxTarget, "MAX_FILTER": MaxFilter, "MAX_GROUPS": MaxGroups,
		"OP_RESET_SIGNALS": int(CodeResetSignals), "OP_DUP2": int(CodeDup2), "OP_SETSID": int(CodeSetSID),
		"OP_SETCTTY": int(CodeSetCTTY), "OP_UMASK": int(CodeUmask), "OP_RLIMIT": int(CodeRLimit),
		"OP_SETGROUPS": int(CodeSetGroups), "OP_SETGID": int(CodeSetGID), "OP_SETUID": int(CodeSetUID),
		"OP_KEEPCAPS": int(CodeKeepCaps), "OP_DROP_BOUNDING": int(CodeDropBounding), "OP_SETCAPS": int(CodeSetCaps),
		"OP_SETAMBIENT": int(CodeSetAmbient), "OP_NO_NEW_PRIVS": int(CodeNoNewPrivs), "OP_CHDIR": int(CodeChdir),
		"OP_PERSONALITY": int(CodePersonality), "OP_SECCOMP": int(CodeSeccomp), "OP_CLOSE_FROM": int(CodeCloseFrom),
		"OP_LOOKUP": int(CodeLookup), "OP_EXEC": int(CodeExec), "OP_JOIN_CGROUP": int(CodeJoinCgroup),
		"OP_SETNS": int(CodeSetNS), "OP_FORK": int(CodeFork), "OP_WRITE_FD": int(CodeWriteFD),
		"OP_SESSION_KEYRING": int(CodeSessionKeyring), "OP_UNSHARE": int(CodeUnshare), "OP_FSOPEN": int(CodeFSOpen),
		"REPLY_OK": ReplyOK, "REPLY_FAILED": ReplyFailed, "REPLY_FORKED": ReplyForked, "REPLY_MALFORMED": ReplyMalformed, "REPLY_OPENED": ReplyOpened,
		"OP_WRITE_AT": int(CodeWriteAt), "OP_MEMPOLICY": int(CodeMempolicy), "OP_AFFINITY": int(CodeAffinity),
		"OP_TRY_CHDIR": int(CodeTryChdir), "OP_RETRY_CHDIR": int(CodeRetryChdir), "MAX_NODES": MaxNodes, "MAX_CPUS": MaxCPUs,
		"REPLY_LISTENER":  ReplyListener,
		"LOOKUP_UNUSABLE": LookupUnusable, "LOOKUP_STAT": LookupStat, "LOOKUP_NOT_FOUND": LookupNotFound, "LOOKUP_DOT": LookupDot,
		"EXIT_FAILED": ExitFailed, "EXIT_USAGE": ExitUsage, "EXIT_CONNECT": ExitConnect, "EXIT_EOF": ExitEOF, "EXIT_MALFORMED": ExitMalformed,
	}
	text, err := os.ReadFile("../../cmd/nexcage-init/protocol.h")
	require.NoError(t, err)
	got := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^#define (\w+) (\w+)`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.ParseInt(m[2], 0, 64)
		require.NoError(t, err, m[0])
		got[m[1]] = int(n)
	}
	assert.Equal(t, want, got)
}

func TestEncodeRefusesWhatTheHelperWould(t *testing.T) {
	exec := Exec([]string{"x"}, nil)
	for _, tt := range []struct {
		name string
		ops  []Op
		want string
	}{
		{"empty operation", []Op{{}}, "operation 1 of 1: empty operation"},
		{"NUL in argument", []Op{Exec([]string{"x", "a\x00b"}, nil)}, `an argument has a NUL byte`},
		{"NUL in environment", []Op{Exec([]string{"x"}, []string{"A=\x00"})}, `an environment variable has a NUL byte`},
		{"NUL in name", []Op{Lookup("a\x00b", "/bin")}, `look up "a\x00b": has a NUL byte`},
		{"NUL in path", []Op{Lookup("a", "/b\x00in")}, `has a NUL byte`},
		{"NUL in directory", []Op{Chdir("/\x00")}, `chdir "/\x00": not a path`},
		{"empty directory", []Op{Chdir("")}, `chdir "": not a path`},
		{"NUL in type", []Op{FSOpen("a\x00")}, `not a file system type`},
		{"empty type", []Op{FSOpen("")}, `not a file system type`},
		{"no arguments", []Op{Exec(nil, nil)}, "no arguments"},
		{"exec not last", []Op{exec, Umask(0)}, `operation 1 of 2: exec ["x"]: not the last operation`},
		{"no descriptor", []Op{Umask(0), Dup2(None, 1)}, "operation 2 of 2: dup2 to descriptor 1: descriptor index -1"},
		{"descriptor over the limit", []Op{JoinCgroup(MaxFDs)}, "descriptor index 250"},
		{"target", []Op{Dup2(0, 10)}, "not between 0 and 9"},
		{"negative target", []Op{Dup2(0, -1)}, "not between 0 and 9"},
		{"terminal", []Op{SetCTTY(10)}, "not between 0 and 9"},
		{"negative descriptor", []Op{CloseFrom(-1)}, "negative"},
		{"groups", []Op{SetGroups(make([]uint32, MaxGroups+1))}, "setgroups of 65537 groups: more than 65536"},
		{"no filter", []Op{Seccomp(nil, 0)}, "not a program of 1 to 4096 instructions"},
		{"part of an instruction", []Op{Seccomp(make([]byte, 12), 0)}, "not a program"},
		{"filter too long", []Op{Seccomp(make([]byte, 8*4097), 0)}, "not a program"},
		{"nothing to write", []Op{WriteFD(0, nil)}, "nothing to write"},
		{"NUL in a directory to try", []Op{TryChdir("/\x00")}, `chdir "/\x00": not a path`},
		{"no directory to try again", []Op{RetryChdir("")}, `chdir "": not a path`},
		{"write without a directory", []Op{WriteAt(None, "a", "b")}, "descriptor index -1"},
		{"write to no path", []Op{WriteAt(0, "", "b")}, "not a path"},
		{"write to two paths", []Op{WriteAt(0, "a\x00b", "c")}, "not a path"},
		{"write nothing", []Op{WriteAt(0, "a", "")}, "nothing to write"},
		{"write a NUL", []Op{WriteAt(0, "a", "b\x00")}, "the data has a NUL byte"},
		{"memory node", []Op{Mempolicy(2, []int{1024})}, "a node is not between 0 and 1023"},
		{"negative memory node", []Op{Mempolicy(2, []int{-1})}, "a node is not between 0 and 1023"},
		{"no CPUs", []Op{Affinity(nil)}, "not CPUs between 0 and 65535"},
		{"CPU", []Op{Affinity([]int{65536})}, "not CPUs between 0 and 65535"},
		{"message too long", []Op{Exec([]string{strings.Repeat("x", MaxMessage)}, nil)}, "at most 8388608 can be sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Encode(tt.ops)
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestEncodeCountsDescriptors(t *testing.T) {
	ops := []Op{Dup2(2, 0), Umask(0), Dup2(0, 1)}
	assert.Equal(t, 3, Descriptors(ops))
	assert.Equal(t, 0, Descriptors([]Op{Umask(0)}))
	msg, err := Encode(ops)
	require.NoError(t, err)
	assert.EqualValues(t, 3, binary.LittleEndian.Uint16(msg[6:]))
}

func TestLookupTriesWhatGoTries(t *testing.T) {
	for _, tt := range []struct {
		name, prog, path string
		want             []string
	}{
		{"slash", "./x", "/bin", []string{"./x"}},
		{"not cleaned with slash", "/bin//x", "/bin", []string{"/bin//x"}},
		{"path", "x", "/bin:/usr/bin/", []string{"/bin/x", "/usr/bin/x"}},
		{"empty elements", "x", ":/bin:", []string{"x", "/bin/x", "x"}},
		{"cleaned", "x", "/a/../b//c:.", []string{"/b/c/x", "x"}},
		{"no path", "x", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, Lookup(tt.prog, tt.path).Candidates())
		})
	}
}

func TestTextHasNoSecrets(t *testing.T) {
	assert.NotContains(t, Exec([]string{"x"}, []string{"PASSWORD=y"}).String(), "PASSWORD")
	assert.NotContains(t, WriteFD(0, []byte("secret")).String(), "secret")
}

// FuzzEncode checks that messages are what their headers say, and that no
// string gets into one that the helper would read as two.
func FuzzEncode(f *testing.F) {
	f.Add("sh", "/bin:/usr/bin", "x", 1, []byte("12345678"))
	f.Add("/bin/sh", "", "a\x00b", -1, []byte{})
	f.Fuzz(func(t *testing.T, name, path, arg string, n int, data []byte) {
		ops := []Op{
			Lookup(name, path), Chdir(path), TryChdir(path), RetryChdir(name), WriteAt(FD(n), path, arg), Mempolicy(uint32(n), []int{n}),
			Affinity([]int{n, 1}), Dup2(FD(n), n), Seccomp(data, 0), WriteFD(FD(n), data),
			Exec([]string{arg, name}, []string{path}),
		}
		for _, o := range ops {
			msg, err := Encode([]Op{o})
			if err != nil {
				assert.True(t, errdefs.IsInvalidArgument(err), "%v", err)
				continue
			}
			assert.False(t, o.Code() == CodeExec && strings.Contains(name+path+arg, "\x00"))
			assert.Zero(t, len(msg)%8)
			assert.EqualValues(t, len(msg)-HeaderSize, binary.LittleEndian.Uint32(msg[12:]))
			body := msg[HeaderSize+8:]
			assert.Equal(t, o.payload, body[:len(o.payload)])
			assert.Empty(t, bytes.Trim(body[len(o.payload):], "\x00"))
		}
	})
}
