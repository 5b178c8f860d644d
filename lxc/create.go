package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/helper"
	"github.com/cageforge/containerd-shim-nexcage/lxc/rootfs"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// Request asks for a container.
type Request struct {
	Namespace string // of containerd
	ID        string
	Bundle    string        // absolute
	Spec      *specs.Spec   // of the bundle
	StateDir  string        // the container's own directory, which exists
	Rootfs    []mount.Mount // for bundle/rootfs; none if root.path is ready
	Stdio     Stdio
	IOUID     uint32 // owner of the pipes
	IOGID     uint32
	// OpenIO counts the stdio of the container's processes that is not done
	// yet: a logger may outlive Delete. The shim waits for it before it ends.
	OpenIO *sync.WaitGroup
	Host   Host
	Joiner *helper.Joiner // starts execs
	UserNS UserNS
	// Broadcast takes the exit status from lxc-monitord, where the kernel does
	// not keep it (pidfd.KeepsStatus).
	Broadcast bool

	// Save keeps what Destroy needs when the shim has died. It is called
	// before anything is made that outlives the shim, and again as more is
	// known.
	Save func(Record) error
}

// connectTimeout bounds the start of LXC, from lxc-start to the helper's
// connection. It is only met when LXC hangs.
const connectTimeout = 60 * time.Second

// creation is a container on its way; undo takes back what was done so far.
type creation struct {
	*Container
	cgroup  string              // below the root of each hierarchy
	unit    *Unit               // nil without systemd
	users   map[string]*os.File // user namespaces by their mapping; nil before resolveIDs
	mounted bool                // the snapshot is, or was tried to
	waited  time.Duration       // for the host to start LXC
	undo    []func(context.Context) error
}

func (c *creation) onFailure(f func(context.Context) error) { c.undo = append(c.undo, f) }

// Create makes the container, up to its init process, which waits for Start.
// If it fails, nothing is left of it.
func Create(ctx context.Context, r Request) (_ *Container, retErr error) {
	c := &creation{Container: &Container{request: r}}
	defer func() {
		for i := len(c.undo) - 1; i >= 0 && retErr != nil; i-- {
			retErr = errors.Join(retErr, c.undo[i](context.WithoutCancel(ctx)))
		}
	}()
	phases := []struct {
		name string
		do   func(context.Context) error
	}{
		{"translate", c.translate},
		{"userns", c.resolveIDs},
		{"cgroup", c.limit},
		{"mount", c.mount},
		{"stdio", c.openIO},
		{"lxc", c.boot},
		{"resctrl", c.joinResctrl},
		{"network", c.moveNetDevices},
		{"sysctl", c.writeUserSysctls},
		{"rootfs", c.build},
		{"process", c.prepare},
		{"host", c.awaitHost},
		{"settle", c.leaveNetDevices},
	}
	fields, begin := log.Fields{"id": r.ID}, time.Now()
	for _, p := range phases {
		start := time.Now()
		if err := p.do(ctx); err != nil {
			return nil, fmt.Errorf("OCI runtime create failed: %w", err)
		}
		fields[p.name] = time.Since(start).Round(time.Microsecond).String()
	}
	fields["own"] = (time.Since(begin) - c.waited).Round(time.Microsecond).String()
	log.G(ctx).WithFields(fields).Debug("created LXC container")
	go c.watch(context.WithoutCancel(ctx))
	return c.Container, nil
}

func (c *creation) translate(ctx context.Context) (err error) {
	c.spec = c.request.Spec
	c.record = Record{
		Bundle:   c.request.Bundle,
		StateDir: c.request.StateDir,
	}
	if c.record.Volume, err = c.request.Host.HasRoot(ctx, &c.request); err != nil {
		return err
	}
	if len(c.request.Rootfs) > 0 {
		c.record.Rootfs = filepath.Join(c.request.Bundle, "rootfs")
	}
	if err := c.setPlan(c.spec); err != nil {
		return err
	}
	if err := c.placeCgroup(); err != nil {
		return err
	}
	if err := c.request.Save(c.record); err != nil {
		return err
	}
	if err := c.ownUserNamespace(ctx); err != nil {
		return err
	}
	for _, w := range append(c.plan.Warnings, oci.MissingCapabilities(c.plan.Process, c.capabilities())...) {
		log.G(ctx).WithField("id", c.request.ID).Warn(w)
	}
	return nil
}

// setPlan makes the plan of a spec the container's.
func (c *creation) setPlan(spec *specs.Spec) (err error) {
	if c.plan, err = oci.Translate(c.request.Bundle, spec); err != nil {
		return err
	}
	if err := checkHost(c.plan); err != nil {
		return err
	}
	if c.plan.UserNamespace() && c.record.Volume {
		return fmt.Errorf("linux.namespaces: a user namespace is not supported with a volume for the root file system: %w", errdefs.ErrNotImplemented)
	}
	c.Init = newProcess("", c.plan.Process, c.request.Stdio)
	return nil
}

// mount mounts the snapshot, as every shim does.
func (c *creation) mount(ctx context.Context) error {
	if c.record.Rootfs == "" || c.mounted {
		return nil
	}
	return c.mountWith(func() error {
		if c.record.Volume {
			return nil // but the directory has to be there
		}
		return mount.All(c.request.Rootfs, c.record.Rootfs)
	})
}

func (c *creation) mountWith(mountAll func() error) error {
	if err := os.Mkdir(c.record.Rootfs, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	c.onFailure(func(context.Context) error { return mount.UnmountRecursive(c.record.Rootfs, 0) })
	if err := mountAll(); err != nil {
		return fmt.Errorf("failed to mount rootfs component: %w", err)
	}
	return nil
}

func (c *creation) openIO(ctx context.Context) error {
	c.onFailure(func(context.Context) error { return c.Init.discardIO() })
	return c.Container.openIO(ctx, c.Init)
}

// boot starts LXC and waits for the helper.
func (c *creation) boot(ctx context.Context) error {
	base := c.record.base()
	if err := base.Make(); err != nil {
		return err
	}
	c.onFailure(c.abandon)
	listener, err := helper.Listen(string(base))
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := c.openBase(listener); err != nil {
		return err
	}
	if err := c.reserve(ctx); err != nil {
		return err
	}
	if err := c.watchExit(ctx); err != nil {
		return err
	}
	go c.warm(ctx) // while LXC starts
	if c.instance, err = c.request.Host.Start(ctx, c.config(), &c.record); err != nil {
		return err
	}
	if err := c.noteMonitor(); err != nil {
		return err
	}
	if c.conn, err = c.accept(ctx, listener); err != nil {
		return err
	}
	c.Init.pid, c.Init.pidfd = c.conn.PID(), c.conn.PIDFD()
	if c.record.Init, err = ProcOf(c.Init.pid); err != nil {
		return err
	}
	if err := c.instance.Adopt(c.Init.pid); err != nil {
		return err
	}
	if err := c.noteMonitor(); err != nil {
		return err
	}
	return c.enter(ctx)
}

func (c *creation) reserve(ctx context.Context) error {
	if c.record.Volume {
		defer c.waiting()() // for pct, which makes the volume
	}
	return c.request.Host.Reserve(ctx, c.config(), &c.record, func() error { return c.request.Save(c.record) })
}

func (c *creation) config() *Config {
	return &Config{Request: &c.request, Plan: c.plan, Cgroup: c.cgroup}
}

// noteMonitor records lxc-start, as soon as it is known.
func (c *creation) noteMonitor() (err error) {
	if pid := c.instance.Monitor(); pid != 0 {
		if c.record.Monitor, err = ProcOf(pid); err != nil {
			return err
		}
	}
	return c.request.Save(c.record)
}

// accept waits for the helper, or for the end of an LXC that failed.
func (c *creation) accept(ctx context.Context, l *helper.Listener) (*helper.Conn, error) {
	defer c.waiting()()
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("the helper did not connect within %s", connectTimeout))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go func() {
		select {
		case <-c.instance.Done():
			fail(c.instance.Failure())
		case <-ctx.Done():
		}
	}()
	conn, err := l.Accept(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

// awaitHost waits until the host has done its own part of the start.
func (c *creation) awaitHost(ctx context.Context) error {
	defer c.waiting()()
	return c.instance.Ready(ctx)
}

// waiting counts the time until what it returns is called as the host's.
func (c *creation) waiting() func() {
	begin := time.Now()
	return func() { c.waited += time.Since(begin) }
}

// abandon ends a container that did not come into being.
func (c *creation) abandon(ctx context.Context) error {
	if c.conn != nil {
		_ = c.Init.signal(unix.SIGKILL) // it may have ended by itself
		_ = c.conn.Close()
	}
	if c.root != nil {
		_ = c.root.Close()
	}
	if c.instance != nil {
		c.instance.Ended()
	}
	return c.record.Destroy(ctx)
}

// join lets the helper join the group, and then the namespaces that are not
// LXC's to make: the group is the root of a new cgroup namespace.
func (c *creation) join(ctx context.Context) error {
	if err := c.adopt(ctx); err != nil {
		return err
	}
	files, err := c.group.JoinFiles()
	if err != nil {
		return err
	}
	defer closeAll(files)
	var ops []initop.Op
	for i := range files {
		ops = append(ops, initop.JoinCgroup(initop.FD(i)))
	}
	if err := c.conn.Run(ctx, ops, files...); err != nil {
		return err
	}
	return c.enterNamespaces(ctx)
}

func (c *creation) build(ctx context.Context) (err error) {
	if err = adjust(c.Init.pid, c.plan.Process); err != nil {
		return err
	}
	target, err := c.target(ctx)
	if err != nil {
		return err
	}
	if target.Root, err = c.instance.Root(); err != nil {
		return errors.Join(fmt.Errorf("root file system: %w", err), closeContexts(target))
	}
	if target.Root != nil {
		defer target.Root.Close()
	}
	c.root, err = rootfs.Build(ctx, target, c.plan, c.createHooks(ctx))
	c.closeUsers()
	return errors.Join(err, closeContexts(target))
}

// setOOMScoreAdj writes process.oomScoreAdj (proc_pid_oom_score_adj(5));
// lowering it needs CAP_SYS_RESOURCE.
func setOOMScoreAdj(pid int, score *int) error {
	if score == nil {
		return nil
	}
	path := filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj")
	if err := os.WriteFile(path, []byte(strconv.Itoa(*score)), 0); err != nil {
		return fmt.Errorf("process.oomScoreAdj: %d: %w", *score, err)
	}
	return nil
}

// prepare makes the helper everything but the user's program: what can fail
// for the user fails at Create, as with runc.
func (c *creation) prepare(ctx context.Context) error {
	p := c.Init
	files, err := c.processFiles(p, true)
	if err != nil {
		return err
	}
	ops, start, err := oci.ProcessOps(p.spec, c.processOptions(p))
	if err != nil {
		return err
	}
	c.start = start
	all, done, err := withProcfs(ops, files)
	if err != nil {
		return err
	}
	defer done()
	if err := c.conn.Run(ctx, ops, all...); err != nil {
		return fmt.Errorf("unable to start container process: error during container init: %w", err)
	}
	if err := c.setLimits(p.pid, p.spec); err != nil {
		return err
	}
	p.closeEnds(files)
	return nil
}
