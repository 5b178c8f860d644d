// Package cli are the commands of the stand-in Proxmox host: pct, pvesh and
// pveversion, with Proxmox's arguments, messages, streams and exit codes, and
// the hooks that LXC runs. It is written from observation of pve-container
// 6.1 (Proxmox VE 9.1); what older versions do differently, it does where the
// shim depends on it.
//
// It does not do: tasks' logs, permissions, HA, firewall, other nodes.
package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// Run runs the program that argv[0] names, and returns its exit code; ok is
// false if there is none of that name.
func Run(argv []string) (code int, ok bool) {
	name := filepath.Base(argv[0])
	args := argv[1:]
	switch name {
	case "pct":
		return logged("pct", args, runPct), true
	case "pvesh":
		return logged("pvesh", args, runPvesh), true
	case "pveversion":
		return logged("pveversion", args, runVersion), true
	case "pve-node":
		return finish(node.Daemon()), true
	case "lxc-pve-prestart-hook":
		return hook("pre-start", lxc.PreStart), true
	case "lxc-pve-autodev-hook":
		return finish(lxc.AutoDev()), true
	case "lxc-pve-poststop-hook":
		return hook("post-stop", lxc.PostStop), true
	case "pve-container-stop-wrapper":
		return finish(lxc.StopUnit(args)), true
	case "lxcnetaddbr":
		return finish(lxc.NetUp(args)), true
	}
	return 0, false
}

// logged runs a command with its faults, and records the call.
func logged(name string, args []string, f func([]string) error) int {
	if os.Getenv(workerEnv) != "" {
		return runWorker(args)
	}
	begin := time.Now()
	err := host.Begin(append([]string{name}, args...))
	if err == nil {
		err = f(args)
	}
	code := finish(err)
	call := host.Call{Argv: append([]string{name}, args...), RC: code, MS: float64(time.Since(begin).Microseconds()) / 1000}
	if err := host.LogCall(call); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in:", err)
	}
	return code
}

func hook(name string, f func() error) int {
	err := host.Begin([]string{"hook", name})
	if err == nil {
		err = f()
	}
	if errors.Is(err, lxc.ErrReboot) {
		return 1
	}
	return finish(err)
}

// finish prints an error and returns the exit code.
func finish(err error) int {
	if err == nil {
		host.Finish()
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	text := err.Error()
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	fmt.Fprint(os.Stderr, text)
	var die *host.Die
	if errors.As(err, &die) {
		return die.Code
	}
	return 255
}

// exitStatus ends a command with that code and without a message.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
