package lxc

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// adjust does from outside what needs privileges of the host, or files of its
// /proc, for a helper that waits.
func adjust(pid int, p *specs.Process) error {
	if err := setOOMScoreAdj(pid, p.OOMScoreAdj); err != nil {
		return err
	}
	return schedule(pid, p)
}

// schedule sets process.scheduler and process.ioPriority, which stay over
// execve: from outside, since in a user namespace nobody may raise them.
func schedule(pid int, p *specs.Process) error {
	if attr := oci.SchedAttr(p); attr != nil {
		if err := unix.SchedSetAttr(pid, attr, 0); err != nil {
			return fmt.Errorf("process.scheduler: %s: %w", p.Scheduler.Policy, os.NewSyscallError("sched_setattr", err))
		}
	}
	prio, ok := oci.IOPriority(p)
	if !ok {
		return nil
	}
	const whoProcess = 1 // IOPRIO_WHO_PROCESS
	if _, _, err := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), uintptr(prio)); err != 0 {
		return fmt.Errorf("process.ioPriority: %s %d: %w", p.IOPriority.Class, p.IOPriority.Priority, os.NewSyscallError("ioprio_set", err))
	}
	return nil
}
