package cli

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
)

var lives = []*command{
	{name: "start", args: vmidOnly, opts: map[string]kind{"skiplock": boolean, "debug": boolean}, check: checkStart, work: start},
	{name: "stop", args: vmidOnly, opts: map[string]kind{"skiplock": boolean, "overrule-shutdown": boolean}, check: checkRunning("CT %d not running"), work: stop},
	{name: "shutdown", args: vmidOnly, opts: map[string]kind{"timeout": integer, "forceStop": boolean}, check: checkRunning("CT %d not running"), work: shutdown},
	{name: "reboot", args: vmidOnly, opts: map[string]kind{"timeout": integer}, check: checkRunning("VM %d not running"), work: reboot},
	{name: "suspend", args: vmidOnly, opts: map[string]kind{"skiplock": boolean}, check: checkRunning("CT %d not running"), work: suspend},
	{name: "resume", args: vmidOnly, opts: map[string]kind{"skiplock": boolean}, check: checkResume, work: suspend},
	{name: "exec", args: vmidOnly, rest: true, opts: map[string]kind{"keep-env": boolean}, check: execute},
	{name: "enter", args: vmidOnly, opts: map[string]kind{"keep-env": boolean}, check: enter},
	{name: "console", args: vmidOnly, opts: map[string]kind{"escape": text}, check: console},
}

// startError gives a missing configuration the exit code that start has for it.
func startError(err error) error {
	if err == nil {
		return nil
	}
	return host.Dief("%w", err)
}

func checkStart(p *call) error {
	if lxc.Running(p.vmid) {
		return host.Dief("CT %d already running", p.vmid)
	}
	return host.CheckQuorum()
}

func start(p *call) error {
	return startError(host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if !p.on("skiplock") {
			if lock := c.Get("lock", ""); lock != "" && lock != "mounted" {
				return host.CheckLock(c)
			}
		}
		return startLocked(p.vmid, c)
	}))
}

func startLocked(vmid int, c *ctconf.Conf) error {
	if c.On("template") {
		return host.Dief("you can't start a CT if it's a template")
	}
	if lxc.Running(vmid) {
		return host.Dief("CT %d already running", vmid)
	}
	return lxc.Start(vmid, c)
}

func checkRunning(message string) func(*call) error {
	return func(p *call) error {
		if !lxc.Running(p.vmid) {
			return host.Dief(message, p.vmid)
		}
		return nil
	}
}

// locked loads the configuration under its lock, unless it is locked for
// another purpose.
func locked(p *call, f func(*ctconf.Conf) error) error {
	return host.Locked(p.vmid, host.LockTimeout, func() error {
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		if !p.on("skiplock") {
			if lock := c.Get("lock", ""); lock != "" && lock != "mounted" {
				return host.CheckLock(c)
			}
		}
		return f(c)
	})
}

func stop(p *call) error {
	return locked(p, func(*ctconf.Conf) error { return lxc.Stop(p.vmid) })
}

func timeout(p *call, otherwise int) int {
	n, err := strconv.Atoi(p.opts["timeout"])
	if err != nil {
		return otherwise
	}
	return n
}

func shutdown(p *call) error {
	return locked(p, func(*ctconf.Conf) error { return lxc.Shutdown(p.vmid, timeout(p, 60), p.on("forceStop")) })
}

func reboot(p *call) error {
	return locked(p, func(*ctconf.Conf) error {
		if err := lxc.Shutdown(p.vmid, timeout(p, 60), true); err != nil {
			return err
		}
		c, err := host.Load(p.vmid)
		if err != nil {
			return err
		}
		return startLocked(p.vmid, c)
	})
}

func suspend(p *call) error {
	return host.Dief("command 'lxc-checkpoint -n %d -s -D /var/lib/vz/dump' failed: exit code 1", p.vmid)
}

func checkResume(p *call) error {
	if lxc.Running(p.vmid) {
		return host.Dief("CT %d already running", p.vmid)
	}
	_, err := host.Load(p.vmid)
	return err
}

// become replaces pct by one of LXC's programs.
func become(argv ...string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

func attached(p *call) (envFlag string, err error) {
	if _, err := host.Load(p.vmid); err != nil {
		return "", err
	}
	if !lxc.Running(p.vmid) {
		return "", host.Dief("container '%d' not running!", p.vmid)
	}
	if p.opts["keep-env"] == "0" {
		return "--clear-env", nil
	}
	return "--keep-env", nil
}

func execute(p *call) error {
	env, err := attached(p)
	if err != nil {
		return err
	}
	if len(p.rest) == 0 {
		return host.Dief("missing command at /usr/share/perl5/PVE/CLI/pct.pm line 246.")
	}
	return become(append([]string{"lxc-attach", env, "-n", strconv.Itoa(p.vmid), "--"}, p.rest...)...)
}

func enter(p *call) error {
	env, err := attached(p)
	if err != nil {
		return err
	}
	return become("lxc-attach", env, "-n", strconv.Itoa(p.vmid))
}

func console(p *call) error {
	if _, err := attached(p); err != nil {
		return err
	}
	return become("lxc-console", "-n", strconv.Itoa(p.vmid), "-e", fmt.Sprint(def(p.opts["escape"], "^a")))
}

func def(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}
