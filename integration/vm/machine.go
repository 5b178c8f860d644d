package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is a running guest.
type Machine struct {
	*Client
	dir    string // of its files
	log    string // its console
	cmd    *exec.Cmd
	ended  chan struct{}
	failed error // of QEMU, once ended is closed
}

// Options of a Machine.
type Options struct {
	CPUs     int    // 2 if 0
	MemoryMB int    // 2048 if 0
	Share    string // directory whose files the guest finds at Share
	Log      io.Writer
}

// bootTimeout is that of a loaded machine: it takes 15 to 25 s on a quiet one.
const bootTimeout = 4 * time.Minute

// Boot starts a guest on a throw-away copy of the image, and waits for its
// agent. It runs until Close, or until ctx ends; the end of this process ends
// it too.
func Boot(ctx context.Context, img Image, o Options) (_ *Machine, retErr error) {
	dir, err := os.MkdirTemp("", "nxvm-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, log: filepath.Join(dir, "console"), ended: make(chan struct{})}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, m.Close())
		}
	}()
	disk := filepath.Join(dir, "share")
	if err := shareDisk(ctx, o.Share, disk); err != nil {
		return nil, err
	}
	host, guest, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	m.cmd = exec.Command("qemu-system-x86_64", arguments(img, disk, m.log, o)...)
	m.cmd.ExtraFiles = []*os.File{guest} // is descriptor 3
	m.cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := m.start(ctx); err != nil {
		_ = host.Close()
		return nil, err
	}
	m.Client = newClient(host)
	boot, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := m.await(boot); err != nil {
		return nil, fmt.Errorf("the guest does not answer: %w\n%s", err, m.Console())
	}
	return m, nil
}

func socketpair() (host net.Conn, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "agent")
	defer f.Close() // FileConn makes a copy
	if host, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[1]))
	}
	return host, os.NewFile(uintptr(fds[1]), "guest"), nil
}

func arguments(img Image, disk, console string, o Options) []string {
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.MemoryMB == 0 {
		o.MemoryMB = 2048
	}
	append := "root=/dev/vda rw console=ttyS0 panic=-1 maxcpus=1 mitigations=off net.ifnames=0 apparmor=1 security=apparmor " +
		"systemd.show_status=0 systemd.log_level=warning loglevel=4"
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", fmt.Sprint(o.CPUs), "-m", fmt.Sprint(o.MemoryMB),
		"-kernel", img.Kernel, "-initrd", img.RD, "-append", append,
		"-drive", "if=virtio,format=raw,cache=unsafe,snapshot=on,file=" + img.Root,
		"-drive", "if=virtio,format=raw,readonly=on,file=" + disk,
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-serial", "file:" + console,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=3",
		"-device", "virtserialport,chardev=agent,name=" + portName,
	}
}

// start starts QEMU from a thread that lives as long as it: Pdeathsig is about
// the thread.
func (m *Machine) start(ctx context.Context) error {
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := m.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		if err := m.cmd.Wait(); err != nil {
			m.failed = fmt.Errorf("qemu: %w: %s", err, strings.TrimSpace(stderr.String()))
		}
		close(m.ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = m.cmd.Process.Kill() })
	return nil
}

// await asks the agent until it answers: nobody tells when it begins to listen.
func (m *Machine) await(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-m.ended:
			cancel(errors.Join(m.failed, errors.New("it has ended")))
		case <-ctx.Done():
		}
	}()
	if err := m.Ping(ctx); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// Console returns what the guest's kernel and systemd have said.
func (m *Machine) Console() string {
	text, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Done is closed when the guest has ended.
func (m *Machine) Done() <-chan struct{} { return m.ended }

// Close ends the guest, as by pulling the plug, and removes its files.
func (m *Machine) Close() error {
	if m.Client != nil {
		m.Client.close()
	}
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill() // may have ended
		<-m.ended
	}
	return os.RemoveAll(m.dir)
}

// shareDisk makes the disk with the files of a directory.
func shareDisk(ctx context.Context, from, disk string) error {
	var kib int64
	err := filepath.WalkDir(from, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		kib += info.Size()>>10 + 8
		return nil
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d", from, disk, fmt.Sprintf("%dk", kib+kib/10+8192))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out.String())
	}
	return nil
}
