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

// Descriptors that the server gets.
const (
	FDSocket   = 3 // the listening socket
	FDAnswered = 4 // a pipe, see startServer
)

// startServer runs this program without a verb, in a process group of its own.
// answered is to be called when containerd has got the address. If this process
// ends before, killed by a client that gave up, the server reads the end of
// file from its pipe, and knows that nobody will come.
func (r *request) startServer(listener *net.UnixListener) (answered func() error, err error) {
	socket, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	told, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer told.Close()
	args := []string{"-namespace", r.Namespace, "-id", r.ID, "-address", r.Address}
	if r.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=4", "TTRPC_ADDRESS="+r.TTRPCAddress)
	cmd.ExtraFiles = []*os.File{FDSocket - 3: socket, FDAnswered - 3: told}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startOnCore(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start the shim: %w", err), tell.Close())
	}
	if err := errors.Join(r.joinCgroup(cmd.Process.Pid), shim.AdjustOOMScore(cmd.Process.Pid)); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), tell.Close())
	}
	answered = func() error {
		_, err := tell.Write([]byte{1})
		return errors.Join(err, tell.Close())
	}
	return answered, cmd.Process.Release()
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
