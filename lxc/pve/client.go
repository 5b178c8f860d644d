package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// Client calls Proxmox's command line tools. They run as children of the shim
// (lxc/child), with a clean environment.
type Client struct {
	Pct        string // path of pct; "" is searched
	Pvesh      string
	Pveversion string

	held []*os.File
}

// holding is a client whose processes of pct, and their children, keep the
// guards locked, whatever becomes of the shim.
func (c *Client) holding(guards ...*guard) *Client {
	h := *c
	for _, g := range guards {
		h.held = append(h.held, g.f)
	}
	return &h
}

// sbin is where Proxmox has its tools, which the PATH of a service may lack.
const sbin = "/usr/sbin"

// lookPath finds a tool of Proxmox. ErrFailedPrecondition without it.
func lookPath(configured, name string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join(sbin, name))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrFailedPrecondition)
	}
	return path, nil
}

// Output is what a command printed.
type Output struct{ Stdout, Stderr string }

// pct runs one verb. The error of ctx when that ends first:
// what pct had begun may go on in its worker.
func (c *Client) pct(ctx context.Context, stdin *os.File, verb string, vmid int, args ...string) (Output, error) {
	path, err := lookPath(c.Pct, "pct")
	if err != nil {
		return Output{}, err
	}
	argv := []string{verb}
	if vmid != 0 {
		argv = append(argv, strconv.Itoa(vmid))
	}
	out, code, err := run(ctx, stdin, c.held, path, append(argv, args...)...)
	if err == nil && (code != 0 || lies(verb) && failed(out.Stderr)) {
		err = newError(verb, vmid, code, out)
	}
	if err != nil && !errors.As(err, new(*Error)) {
		err = fmt.Errorf("pct %s %d: %w", verb, vmid, err)
	}
	return out, err
}

// run runs a program to its end, and returns what it printed and its exit code.
func run(ctx context.Context, stdin *os.File, held []*os.File, path string, args ...string) (out Output, code int, err error) {
	stdout, err := memfile("stdout")
	if err != nil {
		return out, 0, err
	}
	defer stdout.Close()
	stderr, err := memfile("stderr")
	if err != nil {
		return out, 0, err
	}
	defer stderr.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdin, stdout, stderr, held
	begin := time.Now()
	process, err := child.Start(cmd)
	if err != nil {
		return out, 0, err
	}
	_ = cmd.Process.Release() // lxc/child watches it
	exit, err := process.Wait(ctx)
	if err != nil {
		_ = unix.Kill(process.Pid(), unix.SIGKILL) // it may have ended just now
		<-process.Done()
		return out, 0, err
	}
	out.Stdout, out.Stderr = content(stdout), content(stderr)
	log.G(ctx).WithFields(log.Fields{
		"argv": cmd.Args, "exit": exit.Status, "duration": time.Since(begin).Round(time.Millisecond).String(), "stderr": last(out.Stderr, 1),
	}).Debug("ran a tool of Proxmox")
	return out, exit.Status, nil
}

// memfile is a file in memory: a pipe would need somebody to read it.
func memfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxOutput bounds what is read of a tool's output, in bytes.
const maxOutput = 4 << 20

func content(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxOutput))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// last returns the last n lines that are not empty.
func last(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// Start starts a CT, and returns when LXC runs its first process.
func (c *Client) Start(ctx context.Context, vmid int) error {
	_, err := c.pct(ctx, nil, "start", vmid)
	return err
}

// Stop kills a CT, and waits for its end.
func (c *Client) Stop(ctx context.Context, vmid int) error {
	_, err := c.pct(ctx, nil, "stop", vmid)
	return err
}

// Destroy removes a CT that does not run, and every volume that is named after
// it: one that was being made may have some that it does not name.
func (c *Client) Destroy(ctx context.Context, vmid int) error {
	_, err := c.pct(ctx, nil, "destroy", vmid, "--destroy-unreferenced-disks", "1")
	return err
}

// Unlock removes the lock of a CT's configuration.
func (c *Client) Unlock(ctx context.Context, vmid int) error {
	_, err := c.pct(ctx, nil, "unlock", vmid)
	return err
}

// Volume asks for a volume.
type Volume struct {
	Storage string
	GiB     int // size
}

// Restore makes a CT of a tar stream. Its configuration is the file
// etc/vzdump/pct.conf that the stream begins with, but for the host name.
func (c *Client) Restore(ctx context.Context, vmid int, stream *os.File, rootfs Volume, hostname string) error {
	_, err := c.pct(ctx, stream, "restore", vmid, "-", "--rootfs", fmt.Sprintf("%s:%d", rootfs.Storage, rootfs.GiB),
		"--unprivileged", "0", "--hostname", hostname)
	return err
}

// Template makes a CT a template. pct answers 0 whatever happens.
func (c *Client) Template(ctx context.Context, vmid int) error {
	if _, err := c.pct(ctx, nil, "template", vmid); err != nil {
		return err
	}
	config, err := c.Config(ctx, vmid)
	if err == nil && config["template"] != "1" {
		err = fmt.Errorf("pct template %d: it is no template afterwards: %w", vmid, errdefs.ErrFailedPrecondition)
	}
	return err
}

// CloneOptions say how to clone.
type CloneOptions struct {
	Full     bool
	Storage  string // of a full clone
	Hostname string
}

// Clone makes the CT to of the CT from.
func (c *Client) Clone(ctx context.Context, from, to int, o CloneOptions) error {
	args := []string{strconv.Itoa(to)}
	if o.Hostname != "" {
		args = append(args, "--hostname", o.Hostname)
	}
	if o.Full {
		args = append(args, "--full", "1")
		if o.Storage != "" {
			args = append(args, "--storage", o.Storage)
		}
	}
	_, err := c.pct(ctx, nil, "clone", from, args...)
	return err
}

// Config returns the properties of a CT by their keys, as pct shows them: the
// description is URI-encoded.
func (c *Client) Config(ctx context.Context, vmid int) (map[string]string, error) {
	out, err := c.pct(ctx, nil, "config", vmid)
	if err != nil {
		return nil, err
	}
	config := map[string]string{}
	for line := range strings.Lines(out.Stdout) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok {
			config[key] = value
		}
	}
	return config, nil
}

// Status is the state of a CT.
type Status string

// What pct status says.
const (
	StatusRunning Status = "running"
	StatusStopped Status = "stopped"
)

// Status returns whether a CT runs.
func (c *Client) Status(ctx context.Context, vmid int) (Status, error) {
	out, err := c.pct(ctx, nil, "status", vmid)
	if err != nil {
		return "", err
	}
	s, ok := strings.CutPrefix(strings.TrimSpace(out.Stdout), "status: ")
	if !ok {
		return "", fmt.Errorf("pct status %d: unexpected answer %q", vmid, out.Stdout)
	}
	return Status(s), nil
}
