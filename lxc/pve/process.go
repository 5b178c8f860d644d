package pve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/pidfd"
)

// monitor returns the pid of lxc-start of a CT that runs, by the socket that it
// listens on. ErrNotFound if the CT does not run.
func (n *Node) monitor(vmid int) (int, error) {
	conn, err := net.Dial("unix", n.commandSocket(vmid))
	if errors.Is(err, unix.ECONNREFUSED) {
		return 0, fmt.Errorf("CT %d does not run: %w", vmid, errdefs.ErrNotFound)
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, os.NewSyscallError("getsockopt", cerr)
	}
	return int(cred.Pid), nil
}

// parent returns the pid of the parent of a process (proc_pid_status(5)).
func parent(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(rest))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no PPid", pid)
}

// children returns the pids of a process's children (proc_pid_task(5), of the
// thread that leads it: lxc-start has no other).
func children(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(text)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		pids = append(pids, child)
	}
	return pids, nil
}

// stop kills the first process of a CT, and waits until LXC has cleaned up. A
// CT that does not run is no error. ErrUnavailable when ctx ends before.
func (n *Node) stop(ctx context.Context, vmid int) error {
	pid, err := n.monitor(vmid)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := pidfd.Open(pid)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	pids, err := children(pid)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, p := range pids {
		if err := unix.Kill(p, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of CT %d: %w", p, vmid, err)
		}
	}
	if err := pidfd.WaitGone(ctx, f); err != nil {
		return fmt.Errorf("CT %d still ends: %w: %w", vmid, err, errdefs.ErrUnavailable)
	}
	return nil
}
