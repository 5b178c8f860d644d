package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is a file in the lxcpath, there as long as there are watchers. It
// holds the pid of the lxc-monitord that a watcher started.
const lockName = ".monitor"

// Bytes of the file that are locked (fcntl(2), open file description locks,
// which the kernel drops when a process dies).
const (
	byteChange = iota // exclusive: somebody starts or ends lxc-monitord
	byteUse           // shared: held by every watcher
)

// lock keeps watchers of a lxcpath, in different processes, from starting or
// ending lxc-monitord at the same time, and tells who is the last.
type lock struct {
	file    *os.File
	lxcpath string
}

// acquire opens the lock, making it if need be, and enters.
func acquire(lxcpath string) (*lock, error) {
	if err := os.MkdirAll(lxcpath, 0o711); err != nil {
		return nil, err
	}
	return open(lxcpath, os.O_CREATE)
}

// open opens the lock and enters. fs.ErrNotExist if there is none.
func open(lxcpath string, flags int) (*lock, error) {
	for {
		f, err := os.OpenFile(filepath.Join(lxcpath, lockName), os.O_RDWR|unix.O_CLOEXEC|flags, 0o600)
		if err != nil {
			return nil, err
		}
		l := &lock{file: f, lxcpath: lxcpath}
		var st unix.Stat_t
		if err = l.enter(); err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return l, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		// The last watcher removed the file while we waited for it.
	}
}

// enter waits until nobody else starts or ends lxc-monitord: milliseconds,
// and at most the time that these may take.
func (l *lock) enter() error { return l.set(unix.F_OFD_SETLKW, unix.F_WRLCK, byteChange) }

func (l *lock) exit() error { return l.set(unix.F_OFD_SETLK, unix.F_UNLCK, byteChange) }

func (l *lock) use() error { return l.set(unix.F_OFD_SETLK, unix.F_RDLCK, byteUse) }

// last says whether there is no other watcher.
func (l *lock) last() (bool, error) {
	err := l.set(unix.F_OFD_SETLK, unix.F_WRLCK, byteUse)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

func (l *lock) set(cmd int, kind int16, at int64) error {
	for {
		err := unix.FcntlFlock(l.file.Fd(), cmd, &unix.Flock_t{Type: kind, Start: at, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// record notes the lxc-monitord that was started.
func (l *lock) record(pid int) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt([]byte(strconv.Itoa(pid)+"\n"), 0)
	return err
}

// started says whether a watcher started this lxc-monitord.
func (l *lock) started(pid int) bool {
	b := make([]byte, 32)
	n, _ := l.file.ReadAt(b, 0) // io.EOF always
	recorded, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return err == nil && recorded == pid
}

// client is a connection, and the end of its reader; the latter is nil if
// nobody reads.
type client struct {
	conn net.Conn
	done <-chan struct{}
}

// leave gives the lock up, which was entered. The last one to leave ends the
// lxc-monitord, and removes the files.
func (l *lock) leave(c *client) (err error) {
	defer func() {
		if c != nil {
			err = errors.Join(err, c.conn.Close())
		}
		err = errors.Join(err, l.file.Close())
	}()
	last, err := l.last()
	if err != nil || !last {
		return err
	}
	if c != nil {
		err = l.quit(c)
	}
	return errors.Join(err, l.remove())
}

// remove removes the lock and the log that some versions of lxc-monitord
// write.
func (l *lock) remove() (err error) {
	for _, name := range []string{"lxc-monitord.log", lockName} {
		if e := os.Remove(filepath.Join(l.lxcpath, name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// endTimeout bounds the end of lxc-monitord, which takes about 1 ms.
const endTimeout = 5 * time.Second

// quit ends the lxc-monitord at the other end if it is ours, as lxc-monitor
// --quit does. It has removed its FIFO when the connection ends.
func (l *lock) quit(c *client) error {
	pid, err := peer(c.conn)
	if err != nil || !l.started(pid) {
		return err
	}
	if _, err := c.conn.Write([]byte("quit")); err != nil {
		if errors.Is(err, unix.EPIPE) {
			return nil // it has ended by itself
		}
		return err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(endTimeout)); err != nil {
		return err
	}
	if c.done != nil {
		<-c.done
		return nil
	}
	for b := make([]byte, 4096); err == nil; {
		_, err = c.conn.Read(b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("lxc-monitord %d does not end: %w", pid, err)
	}
	return nil
}

// Sweep ends the lxc-monitord of a lxcpath, and removes its files, if watchers
// that have died left it. Without any it costs one open(2).
func Sweep(lxcpath string) error {
	l, err := open(lxcpath, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	address, err := socketName(lxcpath)
	if err != nil {
		return errors.Join(err, l.leave(nil))
	}
	if conn, err := net.Dial("unix", address); err == nil {
		return l.leave(&client{conn: conn})
	}
	return l.leave(nil)
}
