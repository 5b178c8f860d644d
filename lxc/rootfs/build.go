package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// Names in the base directory that LXC starts the container on.
const (
	baseRoot = "/root" // an empty directory: where the new root is built
	baseDev  = "/dev"  // an empty directory: for device nodes, and for a moment the host's file system
	baseProc = "/proc" // the procfs of the container's pid namespace
)

// Target is the process whose file system is made: PID 1 of the container
// (the helper), which waits.
type Target struct {
	PID   int
	PIDFD *os.File

	// Root is a detached mount that becomes the root, nil for root.path. It is
	// used up.
	Root *os.File
	// IDs is the mapping of its user namespace, the zero value if that is
	// the shim's.
	IDs oci.IDMap
	// Contexts are what Contexts asks for, by place in plan.Mounts, opened
	// by a process in its user namespace. They are used up.
	Contexts map[int]*os.File
	// Users are user namespaces with the mapping of each mount that has an
	// IDMap, by place in plan.Mounts.
	Users map[int]*os.File
}

// Build makes the file system that the plan describes, and makes it the root
// of the target and of everything else in its mount namespace. On error the
// container is in no usable state, and has to be ended. The host is as it was
// in any case, but for mount points created in the root and in volumes, and
// for mounts made below a volume that the spec shares with it (rshared).
//
// Errors name the JSON path of the spec and wrap the errno.
//
// beforePivot is called before the root is changed, nil for nothing: then the
// target's mount namespace is a copy of the host's, with the container's file
// system, complete but for what becomes read-only or masked last, at root.path.
func Build(ctx context.Context, t Target, plan *oci.Plan, beforePivot func() error) (*Root, error) {
	began := time.Now()
	b := &builder{
		ctx: ctx, target: t, plan: plan, beforePivot: beforePivot,
		root: none, procfs: none, null: none, empty: none, hostNull: none, host: none, made: map[int]handle{},
	}
	var root *Root
	err := onThread(func() (err error) {
		defer b.close()
		root, err = b.run()
		return err
	})
	if err != nil {
		return nil, err
	}
	log.G(ctx).WithField("mounts", len(plan.Mounts)).WithField("took", time.Since(began)).Debug("built the root file system")
	return root, nil
}

// builder is one call of Build, on a thread of its own.
type builder struct {
	ctx    context.Context
	target Target
	plan   *oci.Plan

	beforePivot func() error // nil for none
	host        handle       // clone of the host's file system, for beforePivot

	procfs   handle // the host's /proc
	hostNet  uint64 // inode of the host's network namespace
	hostMnt  uint64 // inode of the host's mount namespace
	root     handle // the new root
	opened   []handle
	made     map[int]handle // detached mounts made on the host, by place in plan.Mounts
	cgroups  *cgroupView
	sealed   []handle // tmpfs and /dev: made read-only once they are filled
	placed   []placed // with a propagation of their own
	null     handle   // what files are masked with
	empty    handle   // what directories are masked with
	hostNull handle   // the host's /dev/null, where the container has none
}

func (b *builder) run() (*Root, error) {
	for _, step := range []func() error{
		b.openHost, b.joinAllButMount, b.prepare, // in the host's mount namespace
		b.joinMount, b.writeSysctls, b.setNames, b.actAsRoot, // in the container's
		b.attachRoot, b.placeMounts, b.populateDev, b.makeCwd, b.makeConsole, // below the new root
		b.showHost, b.seal, b.protect, b.pivot, b.shareRoot,
	} {
		if err := context.Cause(b.ctx); err != nil {
			return nil, err
		}
		if err := step(); err != nil {
			return nil, err
		}
	}
	return newRoot(b.target, b.root)
}

// keep has h closed when the builder is done.
func (b *builder) keep(h handle, err error) (handle, error) {
	if err == nil {
		b.opened = append(b.opened, h)
	}
	return h, err
}

func (b *builder) close() {
	for _, h := range b.opened {
		h.close()
	}
}

// openHost takes what is needed of the host's /proc, as later the thread
// sees other namespaces.
func (b *builder) openHost() (err error) {
	if b.procfs, err = b.keep(openat(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY)); err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	if b.hostMnt, err = b.namespace("thread-self", "mnt"); err != nil {
		return err
	}
	if b.hostNet, err = b.namespace("thread-self", "net"); err != nil {
		return err
	}
	return b.viewCgroups()
}

// namespace returns the inode of a namespace of a process.
func (b *builder) namespace(process, name string) (uint64, error) {
	path := process + "/ns/" + name
	var st unix.Stat_t
	if err := unix.Fstatat(int(b.procfs), path, &st, 0); err != nil {
		return 0, fmt.Errorf("stat /proc/%s: %w", path, err)
	}
	return st.Ino, nil
}

// joinAllButMount makes the thread see the container's network (sysfs,
// sysctls), ipc (mqueue), uts and cgroup namespaces, but still the host's
// files, which sources of mounts are.
func (b *builder) joinAllButMount() error {
	return b.target.join(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
}

// join needs Linux 5.8 (setns(2) with a pidfd).
func (t Target) join(namespaces int) error {
	err := using(t.PIDFD, func(h handle) error { return unix.Setns(int(h), namespaces) })
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("the container's init has ended: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("join the namespaces of process %d: %w", t.PID, err)
	}
	return nil
}

// joinMount enters the container's mount namespace, in which nothing may
// propagate to the host any more.
func (b *builder) joinMount() error {
	if err := b.target.join(unix.CLONE_NEWNS); err != nil {
		return err
	}
	ino, err := b.namespace("thread-self", "mnt")
	if err != nil {
		return err
	}
	if ino == b.hostMnt {
		return fmt.Errorf("process %d is in the shim's own mount namespace: %w", b.target.PID, errdefs.ErrFailedPrecondition)
	}
	base, err := openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open the base directory: %w", err)
	}
	defer base.close()
	return setPropagation(base, unix.MS_PRIVATE|unix.MS_REC)
}

func (b *builder) actAsRoot() error { return actAsRootOf(b.plan.IDMap) }

// attachRoot puts the clone of root.path where it can be built on.
func (b *builder) attachRoot() error {
	dir, err := openat(unix.AT_FDCWD, baseRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open %s of the base directory: %w", baseRoot, err)
	}
	defer dir.close()
	if err := b.severRoot(); err != nil {
		return fmt.Errorf("root.path: %w", err)
	}
	if err := move(b.root, dir); err != nil {
		return fmt.Errorf("root.path: attach %q: %w", b.plan.Root.Path, err)
	}
	return nil
}

// makeCwd creates the working directory, as runc does.
func (b *builder) makeCwd() error {
	p := b.plan.Process
	if p == nil || p.Cwd == "" {
		return nil
	}
	h, _, err := ensure(b.root, p.Cwd, what{})
	if err != nil {
		return fmt.Errorf("process.cwd: mkdir %q: %w", p.Cwd, err)
	}
	defer h.close()
	if dir, err := h.isDir(); err != nil || !dir {
		return fmt.Errorf("process.cwd: mkdir %q: %w", p.Cwd, errors.Join(err, unix.ENOTDIR))
	}
	return nil
}

// pivot makes the new root that of every process in the mount namespace, and
// drops the base with all that LXC has mounted there.
func (b *builder) pivot() error { return b.pivotTo(b.root) }

func (b *builder) pivotTo(root handle) error {
	base, err := openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open the base directory: %w", err)
	}
	defer base.close()
	if err := unix.Fchdir(int(root)); err != nil {
		return fmt.Errorf("change to the new root: %w", err)
	}
	// The old root ends up on top of the new one, from where it is unmounted:
	// so the image needs no directory for it (pivot_root(2), NOTES).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Fchdir(int(base)); err != nil {
		return fmt.Errorf("change to the base directory: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the base directory: %w", err)
	}
	return nil
}

// setNames sets the names of the UTS namespace. LXC has set the host name of
// a new one, but not of one that is joined.
func (b *builder) setNames() error {
	if _, own := b.plan.Namespaces[specs.UTSNamespace]; !own {
		return nil
	}
	if name := b.plan.Hostname; name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("hostname: %q: %w", name, err)
		}
	}
	if name := b.plan.Domainname; name != "" {
		if err := unix.Setdomainname([]byte(name)); err != nil {
			return fmt.Errorf("domainname: %q: %w", name, err)
		}
	}
	return nil
}

func openat(dir handle, path string, flags int) (handle, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(int(dir), path, flags|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return none, err
	}
	return handle(fd), nil
}
