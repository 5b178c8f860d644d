package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/containerd/v2/pkg/schedcore"
	"github.com/containerd/containerd/v2/pkg/shim"
)

// startServer runs this program without a verb, with the listening socket as
// descriptor 3, in a process group of its own.
func (r *request) startServer(listener *net.UnixListener) error {
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-namespace", r.Namespace, "-id", r.ID, "-address", r.Address}
	if r.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=4", "TTRPC_ADDRESS="+r.TTRPCAddress)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startOnCore(cmd); err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	if err := errors.Join(r.joinCgroup(cmd.Process.Pid), shim.AdjustOOMScore(cmd.Process.Pid)); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return cmd.Process.Release()
}

// startOnCore gives the shim and its containers a core scheduling cookie of
// their own where containerd asks for it (prctl(2), PR_SCHED_CORE).
func startOnCore(cmd *exec.Cmd) error {
	if os.Getenv("SCHED_CORE") != "" {
		runtime.LockOSThread() // the cookie is the thread's, and inherited
		defer runtime.UnlockOSThread()
		if err := schedcore.Create(schedcore.ProcessGroup); err != nil {
			return fmt.Errorf("core scheduling: %w", err)
		}
	}
	return cmd.Start()
}

// joinCgroup puts the shim where the runc options want it.
func (r *request) joinCgroup(pid int) error {
	path := r.runc.GetShimCgroup()
	if path == "" {
		return nil
	}
	var err error
	if cgroups.Mode() == cgroups.Unified {
		var cg *cgroup2.Manager
		if cg, err = cgroup2.Load(path); err == nil {
			err = cg.AddProc(uint64(pid))
		}
	} else {
		var cg cgroup1.Cgroup
		if cg, err = cgroup1.Load(cgroup1.StaticPath(path)); err == nil {
			err = cg.AddProc(uint64(pid))
		}
	}
	if err != nil {
		return fmt.Errorf("shim_cgroup %q: %w", path, err)
	}
	return nil
}
