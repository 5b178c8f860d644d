package lxc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// Commands of LXC's command socket (commands.h).
const (
	getInitPid     = 4
	getLimitCgroup = 19
)

func socketName(vmid int) string { return fmt.Sprintf("@%s/%d/command", host.LXCPath, vmid) }

// Running says whether lxc-start has the container: its command socket is
// there, where PVE::LXC::list_active_containers looks it up, and listens. While
// a process ends its connections may outlast that for a moment.
func Running(vmid int) bool {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	const listens = "00010000" // SO_ACCEPTCON, proc_pid_net(5)
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 8 && f[3] == listens && f[7] == socketName(vmid) {
			return true
		}
	}
	return false
}

// connect opens the command socket. Its EOF is lxc-start's end.
func connect(vmid int) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: socketName(vmid), Net: "unix"})
}

// request sends one command: struct lxc_cmd_req on a 64-bit machine.
func request(c *net.UnixConn, cmd uint32, data string) error {
	msg := binary.NativeEndian.AppendUint32(nil, cmd)
	if data != "" {
		data += "\x00"
	}
	msg = binary.NativeEndian.AppendUint32(msg, uint32(len(data)))
	msg = binary.NativeEndian.AppendUint64(msg, 0)
	creds := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid())})
	if _, _, err := c.WriteMsgUnix(msg, creds, nil); err != nil {
		return err
	}
	if data == "" {
		return nil
	}
	_, err := c.Write([]byte(data))
	return err
}

// response is struct lxc_cmd_rsp.
type response struct {
	ret  int32
	data uint64
	text string
}

func receive(c *net.UnixConn) (r response, err error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(c, head); err != nil {
		return r, err
	}
	r.ret = int32(binary.NativeEndian.Uint32(head))
	size := binary.NativeEndian.Uint32(head[4:])
	r.data = binary.NativeEndian.Uint64(head[8:])
	if size > 1<<16 {
		return r, errors.New("LXC's answer is too long")
	}
	text := make([]byte, size)
	if size > 0 && r.ret == 0 {
		if _, err := io.ReadFull(c, text); err != nil {
			return r, err
		}
	}
	r.text = strings.TrimRight(string(text), "\x00")
	return r, nil
}

// ask is one command and its text.
func ask(vmid int, cmd uint32, data string) (string, error) {
	r, err := exchange(vmid, cmd, data)
	return r.text, err
}

func exchange(vmid int, cmd uint32, data string) (response, error) {
	c, err := connect(vmid)
	if err != nil {
		return response{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return response{}, err
	}
	if err := request(c, cmd, data); err != nil {
		return response{}, err
	}
	r, err := receive(c)
	if err == nil && r.ret != 0 {
		err = unix.Errno(-r.ret)
	}
	return r, err
}

// InitPid is the host's pid of the container's first process.
func InitPid(vmid int) (int, error) {
	c, err := connect(vmid)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := request(c, getInitPid, ""); err != nil {
		return 0, err
	}
	head := make([]byte, 16) // the pid is where a pointer would be
	if _, err := io.ReadFull(c, head); err != nil {
		return 0, err
	}
	pid := int(int32(binary.NativeEndian.Uint64(head[8:])))
	if pid <= 0 {
		return 0, fmt.Errorf("no pid of container %d", vmid)
	}
	return pid, nil
}
