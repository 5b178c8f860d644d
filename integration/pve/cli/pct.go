package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// commands of pct.
var commands []*command

func init() {
	commands = slices.Concat(views, lives, creations, changes, others)
}

func findCommand(name string) *command {
	for _, c := range commands {
		if c.name == name {
			return c
		}
	}
	return nil
}

func runPct(args []string) error {
	if os.Geteuid() != 0 {
		return host.Dief("please run as root")
	}
	if len(args) == 0 {
		return host.Dief("ERROR: no command specified\n%s", usage())
	}
	c := findCommand(args[0])
	if c == nil {
		return host.Dief("ERROR: unknown command 'pct %s'\n%s", args[0], usage())
	}
	p, err := c.parse(args[1:])
	if err != nil {
		return err
	}
	if c.check != nil {
		if err := c.check(p); err != nil {
			return err
		}
	}
	if c.work == nil {
		return nil
	}
	err = forkWorker(args)
	if c.exits0 {
		finishWorker(err)
		return nil
	}
	return err
}

func finishWorker(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func usage() string {
	text := "USAGE: pct <COMMAND> [ARGS] [OPTIONS]\n\n"
	for _, c := range commands {
		text += "       " + c.usage() + "\n"
	}
	return text + "\n       pct help [<extra-args>] [OPTIONS]"
}

// A worker does a command's work in a session of its own: who kills pct does
// not stop it. What it prints, on either stream, is on pct's standard output;
// its last error comes through a pipe and is printed on standard error.
const (
	workerEnv = "PVE_STANDIN_WORKER"
	errorFD   = 3
)

type workerError struct {
	Text string
	Code int
}

func forkWorker(args []string) error {
	inherited, err := inherited()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "pct"
	cmd.Env = append(os.Environ(), workerEnv+"=1", faultEnv())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stdout
	cmd.ExtraFiles = append([]*os.File{w}, inherited...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	host.Forked()
	text, readErr := io.ReadAll(r)
	err = cmd.Wait()
	var status *exec.ExitError
	switch {
	case len(text) > 0:
		var e workerError
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		return host.DieCode(e.Code, "%s", e.Text)
	case errors.As(err, &status) && status.Sys().(syscall.WaitStatus).Signaled():
		return host.Dief("worker killed by signal %d", status.Sys().(syscall.WaitStatus).Signal())
	}
	return errors.Join(err, readErr)
}

// inherited are the descriptors that the caller of pct left open: Perl's fork
// hands them on.
func inherited() (files []*os.File, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || fd < 3 || flags&unix.FD_CLOEXEC != 0 {
			continue // its own, or what the directory was read by
		}
		files = append(files, os.NewFile(uintptr(fd), "inherited"))
	}
	return files, nil
}

func faultEnv() string { return host.FaultEnv() }

func runWorker(args []string) int {
	host.ResumeFault()
	c := findCommand(args[0])
	p, err := c.parse(args[1:])
	if err == nil {
		err = c.work(p)
	}
	if err == nil {
		host.Finish()
		return 0
	}
	text := strings.ReplaceAll(strings.TrimRight(err.Error(), "\n"), "\n", " ")
	data, _ := json.Marshal(workerError{text, 255}) // strings and numbers
	pipe := os.NewFile(errorFD, "error")
	if _, err := pipe.Write(data); err != nil {
		fmt.Println(err)
	}
	return 255
}
