package helper

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// ask is a seccomp program that asks the listener about a system call.
func ask(nr uint32) []byte {
	b := refuse(nr)
	binary.LittleEndian.PutUint32(b[2*8+4:], unix.SECCOMP_RET_USER_NOTIF)
	return b
}

func notified(nr uint32) []initop.Op {
	return []initop.Op{
		initop.CloseFrom(3), initop.Lookup(busybox, ""), initop.NoNewPrivs(),
		initop.Seccomp(ask(nr), unix.SECCOMP_FILTER_FLAG_NEW_LISTENER),
		initop.Exec([]string{"busybox", "pwd"}, nil),
	}
}

// seccompNotif is struct seccomp_notif, seccompAnswer struct
// seccomp_notif_resp (seccomp_unotify(2)).
type seccompNotif struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type seccompAnswer struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// answer lets the next system call that a listener hears of fail with errno,
// or, if that is 0, be done.
func answer(listener int, errno unix.Errno) (nr int32, err error) {
	var n seccompNotif
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, e
	}
	r := seccompAnswer{id: n.id, err: -int32(errno)}
	if errno == 0 {
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))); e != 0 {
		return 0, e
	}
	return n.nr, nil
}

func TestListenerIsHandedOverBeforeTheProgramRuns(t *testing.T) {
	for name, tc := range map[string]struct {
		nr    uint32
		errno unix.Errno
		want  int
	}{
		"a call of the program": {unix.SYS_GETCWD, unix.EXDEV, 1},
		"execve itself":         {unix.SYS_EXECVE, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn, c := waiting(t)
			heard := make(chan int32, 1)
			conn.Notify = func(_ context.Context, f *os.File) error {
				fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					return err
				}
				go func() {
					defer unix.Close(fd)
					nr, err := answer(fd, tc.errno)
					assert.NoError(t, err)
					heard <- nr
				}()
				return nil
			}
			require.NoError(t, conn.Exec(t.Context(), notified(tc.nr)))
			assert.EqualValues(t, tc.nr, <-heard)
			<-c.Done()
			assert.Equal(t, tc.want, c.Exit().Status)
		})
	}
}

func TestAListenerThatNobodyTakesIsTheEndOfTheProcess(t *testing.T) {
	refused := errors.New("nobody is there")
	for name, notify := range map[string]func(context.Context, *os.File) error{
		"nobody":  nil,
		"refused": func(context.Context, *os.File) error { return refused },
	} {
		t.Run(name, func(t *testing.T) {
			conn, c := waiting(t)
			conn.Notify = notify
			err := conn.Exec(t.Context(), notified(unix.SYS_GETCWD))
			require.Error(t, err)
			if notify != nil {
				assert.ErrorIs(t, err, refused)
			}
			<-c.Done()
			assert.Equal(t, 128+int(unix.SIGKILL), c.Exit().Status)
		})
	}
}

func TestAHelperWithAListenerEndsWithTheShim(t *testing.T) {
	conn, c := waiting(t)
	_, _, err := conn.conn.WriteMsgUnix(encode(t, notified(unix.SYS_GETCWD)...), nil, nil)
	require.NoError(t, err)
	r, err := conn.receive()
	require.NoError(t, err)
	assert.EqualValues(t, initop.ReplyListener, r.kind)
	require.NoError(t, conn.Close())
	<-c.Done()
	assert.Equal(t, initop.ExitEOF, c.Exit().Status)
}
