package task

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/idrange"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/route"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

// Files of ours in the bundle.
const (
	// stateLink leads the delete verb to the state directory.
	stateLink = "nexcage"
	// deletedFile says that the task was deleted, and how it had ended: then
	// the delete verb has nothing to do.
	deletedFile = "nexcage-deleted.json"
)

// entry is what is known of a container besides its backend's own.
type entry struct {
	backend backend
	config  *config.Config
	runc    *options.Options // from the request, nil if there were none
	spec    *specs.Spec
	dir     state.Dir

	created chan struct{} // closed when Create has ended, however it did

	// Guarded by Service.mu:
	abandoned bool // Delete could not wait for the end of Create
	last      bool // its client has asked for the shutdown while it was there

	mu    sync.Mutex // guards what follows, and the files in dir
	state state.State
	gone  bool // dir was removed; events may still come
}

// route decides where a new container goes.
func (s *Service) route(ctx context.Context, r *taskAPI.CreateTaskRequest) (*entry, error) {
	e := &entry{created: make(chan struct{})}
	var opts typeurl.Any
	if r.Options != nil {
		opts = r.Options
	}
	var err error
	if e.config, e.runc, err = config.FromOptions(opts); err != nil {
		return nil, err
	}
	if err := e.config.Log.Apply(); err != nil {
		return nil, err
	}
	if e.spec, err = oci.Load(r.Bundle); err != nil {
		return nil, err
	}
	if e.dir, err = state.DirOf(e.config.StateDir, s.options.Namespace, r.ID); err != nil {
		return nil, err
	}
	decision, err := route.Decide(e.config,
		route.Container{Namespace: s.options.Namespace, ID: r.ID, Annotations: e.spec.Annotations},
		route.Env{Sandbox: s.sandboxBackend(e.config)})
	if err != nil {
		return nil, err
	}
	shim, err := lxc.ThisProcess()
	if err != nil {
		return nil, err
	}
	log.G(ctx).WithFields(log.Fields{"id": r.ID, "backend": decision.Backend, "reason": decision.Reason}).Info("routed")
	e.state = state.State{
		OCIVersion: e.spec.Version, ID: r.ID, Status: string(specs.StateCreating), Bundle: r.Bundle,
		Annotations: e.spec.Annotations, Namespace: s.options.Namespace,
		Backend: decision.Backend, Reason: decision.Reason, PodBackend: decision.PodBackend,
		CreatedAt: time.Now(), Shim: shim,
	}
	return e, s.choose(e, r)
}

// choose sets the backend, and what it wants in the request.
func (s *Service) choose(e *entry, r *taskAPI.CreateTaskRequest) (err error) {
	if e.state.Backend == config.BackendLXC {
		e.backend, e.state.Host = s.lxc, hostKind(e.config)
		return nil
	}
	if e.backend, err = s.crunService(e.config.StateDir); err != nil {
		return err
	}
	if e.runc == nil {
		e.runc = &options.Options{Root: e.config.Crun.Root, SystemdCgroup: e.config.Crun.SystemdCgroup}
	}
	if e.runc.BinaryName == "" {
		e.runc.BinaryName = e.config.Crun.Path
	}
	e.state.Crun = e.runc
	r.Options, err = typeurl.MarshalAnyToProto(e.runc)
	return err
}

// sandboxBackend finds what was decided for the containers of a pod.
func (s *Service) sandboxBackend(c *config.Config) func(id string) (string, bool, error) {
	return func(id string) (string, bool, error) {
		dir, err := state.DirOf(c.StateDir, s.options.Namespace, id)
		if err != nil {
			return "", false, err
		}
		st, err := dir.Read()
		if errors.Is(err, errdefs.ErrNotFound) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		return st.PodBackend, true, nil
	}
}

// make makes the record on disk.
func (e *entry) make(bundle string) error {
	if err := e.dir.Make(); err != nil {
		return err
	}
	if err := errors.Join(e.dir.Write(&e.state), os.Symlink(string(e.dir), filepath.Join(bundle, stateLink))); err != nil {
		return errors.Join(err, e.remove(bundle))
	}
	return nil
}

func (e *entry) remove(bundle string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	err := os.Remove(filepath.Join(bundle, stateLink))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, e.dir.Remove())
}

// update changes the record.
func (e *entry) update(change func(*state.State)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil
	}
	change(&e.state)
	return e.dir.Write(&e.state)
}

// deleted replaces the record by the note that spares the delete verb its work.
func (e *entry) deleted(r *taskAPI.DeleteResponse) error {
	b, err := json.Marshal(Stopped{PID: int(r.Pid), Status: int(r.ExitStatus), At: r.ExitedAt.AsTime()})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// The bundle is gone already if the client was quick.
	if err := writeNote(filepath.Join(e.state.Bundle, deletedFile), b); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	e.gone = true
	return e.dir.Remove()
}

// writeNote writes a file that is there with its content, or not at all.
func writeNote(path string, b []byte) error {
	f, err := atomicfile.New(path, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}

// lxcRequest turns a Create request into what package lxc needs.
func (s *Service) lxcRequest(ctx context.Context, r *taskAPI.CreateTaskRequest) (lxc.Request, error) {
	e := s.entry(r.ID)
	host, err := s.host(ctx, e)
	if err != nil {
		return lxc.Request{}, err
	}
	req := lxc.Request{
		Namespace: s.options.Namespace,
		ID:        r.ID,
		Bundle:    r.Bundle,
		Spec:      e.spec,
		StateDir:  string(e.dir),
		Stdio:     lxc.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		IOUID:     e.runc.GetIoUid(),
		IOGID:     e.runc.GetIoGid(),
		Host:      host.Host,
		Joiner:    host.joiner,
		UserNS:    userNS(e.config),
		Broadcast: host.broadcast,
		Save: func(rec lxc.Record) error {
			return e.update(func(st *state.State) { st.LXC, st.PID, st.VMID = &rec, rec.Init.PID, rec.VMID })
		},
	}
	for _, m := range r.Rootfs {
		req.Rootfs = append(req.Rootfs, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return req, nil
}

// idsDir is the directory in the state directory that says which ranges of ids
// are taken; no namespace of containerd begins with a dot.
const idsDir = ".ids"

func userNS(c *config.Config) lxc.UserNS {
	return lxc.UserNS{
		Auto:  c.LXC.UserNS == config.UserNSAuto,
		Plain: c.LXC.UserNSFallback == config.UserNSFallbackPlain,
		Ranges: idrange.Source{
			Dir: filepath.Join(c.StateDir, idsDir), User: c.LXC.UserNSUser, Size: c.LXC.UserNSSize,
			Shared: c.LXC.UserNSRange == config.UserNSRangeShared,
		},
	}
}

// recorder follows the events of the backends to keep the record up to date.
type recorder struct{ *Service }

// Publish notes what the event says, and queues it.
func (r recorder) Publish(ctx context.Context, topic string, event events.Event) error {
	if id, change := changeBy(event); change != nil {
		if e := r.entry(id); e != nil {
			if err := e.update(change); err != nil {
				log.G(ctx).WithError(err).WithField("id", id).Warn("write state.json")
			}
		}
	}
	return r.options.Publisher.Publish(ctx, topic, event)
}

func changeBy(event any) (id string, change func(*state.State)) {
	status := func(s string) func(*state.State) { return func(st *state.State) { st.Status = s } }
	switch v := event.(type) {
	case *eventstypes.TaskCreate:
		return v.ContainerID, func(st *state.State) { st.Status, st.PID = string(specs.StateCreated), int(v.Pid) }
	case *eventstypes.TaskStart:
		return v.ContainerID, status(string(specs.StateRunning))
	case *eventstypes.TaskPaused:
		return v.ContainerID, status("paused")
	case *eventstypes.TaskResumed:
		return v.ContainerID, status(string(specs.StateRunning))
	case *eventstypes.TaskExit:
		if v.ID != v.ContainerID {
			return "", nil
		}
		return v.ContainerID, func(st *state.State) {
			st.Status = string(specs.StateStopped)
			st.Exit = &state.Exit{Status: int(v.ExitStatus), At: v.ExitedAt.AsTime()}
		}
	}
	return "", nil
}
