package rootfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Console makes a pseudo terminal in the container's devpts, for p: owned by
// its user, with the size of consoleSize (rows and columns) if there is one.
// With bind, for the init, it is mounted on /dev/console too.
//
// The master is in non-blocking mode. The caller closes both.
func (r *Root) Console(p *specs.Process, bind bool) (master, slave *os.File, err error) {
	if r.pts == nil {
		return nil, nil, fmt.Errorf("process.terminal: the container has no devpts on /dev/pts: %w", errdefs.ErrFailedPrecondition)
	}
	uid := p.User.UID
	if ids := r.target.IDs; !ids.IsZero() {
		var ok bool
		if uid, ok = ids.HostUID(uid); !ok {
			return nil, nil, fmt.Errorf("process.user.uid: %d is not mapped: %w", p.User.UID, errdefs.ErrInvalidArgument)
		}
	}
	if master, slave, err = r.newPty(); err != nil {
		return nil, nil, fmt.Errorf("process.terminal: %w", err)
	}
	if err = errors.Join(own(slave, uid), resize(master, p.ConsoleSize)); err == nil && bind {
		err = r.bindConsole(slave)
	}
	if err != nil {
		_, _ = master.Close(), slave.Close()
		return nil, nil, fmt.Errorf("process.terminal: %w", err)
	}
	return master, slave, nil
}

// newPty makes the terminal as the container's root, whose group it gets
// where the devpts has none for all.
func (r *Root) newPty() (master, slave *os.File, err error) {
	if r.target.IDs.IsZero() {
		return r.openPty()
	}
	err = onThread(func() error {
		if err := actAsRootOf(r.target.IDs); err != nil {
			return err
		}
		master, slave, err = r.openPty()
		return err
	})
	return master, slave, err
}

// openPty needs Linux 4.13 (TIOCGPTPEER): the slave is opened through the
// master, not by a path of the container.
func (r *Root) openPty() (master, slave *os.File, err error) {
	var m handle
	err = using(r.pts, func(pts handle) (err error) {
		m, err = openat(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(m), unix.TIOCSPTLCK, 0); err != nil {
		m.close()
		return nil, nil, fmt.Errorf("unlock the pseudo terminal: %w", err)
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		m.close()
		return nil, nil, fmt.Errorf("open the slave of the pseudo terminal: %w", errno)
	}
	return os.NewFile(uintptr(m), "ptmx"), os.NewFile(s, "pts"), nil
}

// own gives the terminal to the user. The group stays that of the devpts (5,
// tty), as with runc.
func own(slave *os.File, uid uint32) error {
	return using(slave, func(h handle) error {
		if err := unix.Fchown(int(h), int(uid), -1); err != nil {
			return fmt.Errorf("chown the pseudo terminal: %w", err)
		}
		return nil
	})
}

func resize(master *os.File, size *specs.Box) error {
	if size == nil {
		return nil
	}
	return using(master, func(h handle) error {
		ws := &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		if err := unix.IoctlSetWinsize(int(h), unix.TIOCSWINSZ, ws); err != nil {
			return fmt.Errorf("set the size of the terminal: %w", err)
		}
		return nil
	})
}

// bindConsole mounts the slave on /dev/console, in the container.
func (r *Root) bindConsole(slave *os.File) error {
	return using(r.dir, func(root handle) error {
		return using(slave, func(pty handle) error {
			return onThread(func() error { return r.mountConsole(root, pty) })
		})
	})
}

func (r *Root) mountConsole(root, pty handle) error {
	if err := r.target.join(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := actAsRootOf(r.target.IDs); err != nil {
		return err
	}
	dest, _, err := ensure(root, consolePath, consoleFile)
	if err != nil {
		return fmt.Errorf("open %s: %w", consolePath, err)
	}
	defer dest.close()
	tree, err := clone(pty, "", false)
	if err != nil {
		return fmt.Errorf("clone the pseudo terminal: %w", err)
	}
	defer tree.close()
	if err := move(tree, dest); err != nil {
		return fmt.Errorf("mount %s: %w", consolePath, err)
	}
	return nil
}

const consolePath = "/dev/console"

var consoleFile = what{file: true, mode: 0o666}

// makeConsole makes the mount point of a console that comes later, as /dev
// may be read-only then.
func (b *builder) makeConsole() error {
	if p := b.plan.Process; p == nil || !p.Terminal {
		return nil
	}
	h, _, err := ensure(b.root, consolePath, consoleFile)
	if err != nil {
		return fmt.Errorf("process.terminal: create %s: %w", consolePath, err)
	}
	h.close()
	return nil
}
