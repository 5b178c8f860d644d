package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// childEnv makes the test binary load the filter on its stdin, with the flags
// in the variable, and make the system calls of its arguments.
const childEnv = "NEXCAGE_TEST_SECCOMP_FLAGS"

func TestMain(m *testing.M) {
	if flags, ok := os.LookupEnv(childEnv); ok {
		if err := filtered(flags, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// filtered prints the errno of each call (NUMBER, or NUMBER and argument 0).
func filtered(flags string, args []string) error {
	n, err := strconv.ParseUint(flags, 10, 32)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(os.Stdin); err != nil {
		return err
	}
	code := b.Bytes()
	prog := unix.SockFprog{Len: uint16(len(code) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(n), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	for _, arg := range args {
		var nr, value uint64
		if _, err := fmt.Sscanf(arg, "%d:%d", &nr, &value); err != nil {
			return err
		}
		_, _, errno := unix.RawSyscall(uintptr(nr), uintptr(value), 0, 0)
		fmt.Println(int(errno))
	}
	return nil
}

type kernelCall struct {
	nr    uint32
	arg   uint64
	errno unix.Errno
}

// runFiltered makes calls under a profile in a process of its own.
func runFiltered(t *testing.T, s *specs.LinuxSeccomp, calls ...kernelCall) (errnos string, stderr string, err error) {
	t.Helper()
	code, flags, err := Compile(s, "")
	require.NoError(t, err)
	var args []string
	for _, c := range calls {
		args = append(args, fmt.Sprintf("%d:%d", c.nr, c.arg))
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{childEnv + "=" + strconv.Itoa(int(flags))}
	cmd.Stdin = bytes.NewReader(code)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func expectErrnos(t *testing.T, s *specs.LinuxSeccomp, calls ...kernelCall) {
	t.Helper()
	got, stderr, err := runFiltered(t, s, calls...)
	require.NoError(t, err, stderr)
	var want bytes.Buffer
	for _, c := range calls {
		fmt.Fprintln(&want, int(c.errno))
	}
	assert.Equal(t, want.String(), got)
}

func TestKernelTakesTheDefaultProfile(t *testing.T) {
	file := map[string]string{"amd64": profileAMD64, "arm64": profileARM64}[runtime.GOARCH]
	expectErrnos(t, readProfile(t, file),
		kernelCall{unix.SYS_GETPPID, 0, 0},
		kernelCall{unix.SYS_KEYCTL, 0, unix.EPERM},
		kernelCall{unix.SYS_CLONE3, 0, unix.ENOSYS},
		kernelCall{1000, 0, unix.ENOSYS},
		kernelCall{unix.SYS_PERSONALITY, 0xffffffff, 0},
		kernelCall{unix.SYS_PERSONALITY, 0x0040000, unix.EPERM},
		kernelCall{unix.SYS_SOCKET, unix.AF_VSOCK, unix.EPERM},
		kernelCall{unix.SYS_CLONE, unix.CLONE_NEWUSER, unix.EPERM},
	)
}

func TestKernelTakesEveryAction(t *testing.T) {
	profile := func(action string) *specs.LinuxSeccomp {
		return parse(t, `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
			"syscalls":[{"names":["getppid"],"action":`+action+`}]}`)
	}
	call := kernelCall{nr: unix.SYS_GETPPID}
	for action, errno := range map[string]unix.Errno{
		`"SCMP_ACT_ALLOW"`: 0, `"SCMP_ACT_LOG"`: 0,
		`"SCMP_ACT_ERRNO"`: unix.EPERM, `"SCMP_ACT_ERRNO","errnoRet":77`: 77, `"SCMP_ACT_ERRNO","errnoRet":0`: 0,
		`"SCMP_ACT_TRACE"`: unix.ENOSYS, // without a tracer
	} {
		t.Run(action, func(t *testing.T) {
			call.errno = errno
			expectErrnos(t, profile(action), call)
		})
	}
	t.Run("SCMP_ACT_KILL_PROCESS", func(t *testing.T) {
		_, _, err := runFiltered(t, profile(`"SCMP_ACT_KILL_PROCESS"`), call)
		var exit *exec.ExitError
		require.True(t, errors.As(err, &exit), "%v", err)
		status := exit.Sys().(interface{ Signal() unix.Signal })
		assert.Equal(t, unix.SIGSYS, status.Signal())
	})
	t.Run("SCMP_ACT_TRAP", func(t *testing.T) {
		_, stderr, err := runFiltered(t, profile(`"SCMP_ACT_TRAP"`), call)
		assert.Error(t, err)
		assert.Contains(t, stderr, "SIGSYS")
	})
}

func TestKernelTakesALongProgram(t *testing.T) {
	s := manyRules(150)
	s.DefaultAction = specs.ActAllow
	for i := range s.Syscalls {
		errno := uint(90)
		s.Syscalls[i].Action, s.Syscalls[i].ErrnoRet = specs.ActErrno, &errno
		if len(s.Syscalls[i].Args) == 0 {
			s.Syscalls[i].Action, s.Syscalls[i].ErrnoRet = specs.ActLog, nil
		}
	}
	expectErrnos(t, s,
		kernelCall{unix.SYS_UNSHARE, 18 << 18, 90},
		kernelCall{unix.SYS_UNSHARE, 0, 90},
		kernelCall{unix.SYS_GETPPID, 0, 0},
	)
}

func TestKernelMeetsOtherArchitectures(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("calls of 32-bit x86 from 64-bit code")
	}
	bin := filepath.Join(t.TempDir(), "int80")
	out, err := exec.Command("gcc", "-o", bin, "testdata/int80.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	run := func(profile string) (string, *os.ProcessState) {
		code, _, err := Compile(parse(t, profile), "")
		require.NoError(t, err)
		cmd := exec.Command(bin)
		cmd.Stdin = bytes.NewReader(code)
		out, err := cmd.Output()
		var exit *exec.ExitError
		require.True(t, err == nil || errors.As(err, &exit), "%v", err)
		return string(out), cmd.ProcessState
	}
	const rules = `"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":44,
		"args":[{"index":0,"op":"SCMP_CMP_EQ","value":4294967295}]}]`
	if _, state := run(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`); !state.Success() {
		t.Skip("the kernel runs no 32-bit calls")
	}
	got, state := run(`{` + rules + `,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"]}`)
	assert.True(t, state.Success())
	assert.Equal(t, "-44", got)
	_, state = run(`{` + rules + `}`)
	assert.Contains(t, state.String(), "bad system call")
}
