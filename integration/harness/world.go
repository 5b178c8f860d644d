package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/image"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/node"
)

// Version is a containerd that `make tools` provides.
type Version struct {
	Name string // as users say it: 2.4, 1.7, 1.6
	dir  string // below bin/tools
	conf *template.Template
}

// Versions are all containerds, newest first.
var Versions = []Version{
	{Name: "2.4", dir: ".", conf: config4},
	{Name: "1.7", dir: "1.7", conf: config2},
	{Name: "1.6", dir: "1.6/usr/bin", conf: config2},
}

// Absent says why a version is not there, if it cannot be: only Debian 12 and
// its kin have a package of 1.6.
func (v Version) Absent() string {
	why, _ := os.ReadFile(filepath.Join(Bin(), "tools", v.Name, "absent"))
	return strings.TrimSpace(string(why))
}

// FindVersion returns the version with that name.
func FindVersion(name string) (Version, error) {
	for _, v := range Versions {
		if v.Name == name {
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("containerd %q is none of 2.4, 1.7, 1.6", name)
}

var config4 = template.Must(template.New("").Parse(`version = 4
root = '{{.Dir}}/root'
state = '{{.Dir}}/state'
temp = '{{.Dir}}/tmp'
disabled_plugins = [
  'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri',
  'io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.erofs',
]
[timeouts]
  'io.containerd.timeout.shim.shutdown' = '{{.Seconds 3}}'
  'io.containerd.timeout.shim.cleanup' = '{{.Seconds 5}}'
[plugins.'io.containerd.server.v1.grpc']
  address = '{{.Address}}'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '{{.Address}}.ttrpc'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '{{.Dir}}/s'
`))

var config2 = template.Must(template.New("").Parse(`version = 2
root = '{{.Dir}}/root'
state = '{{.Dir}}/state'
temp = '{{.Dir}}/tmp'
disabled_plugins = [
  'io.containerd.grpc.v1.cri', 'io.containerd.nri.v1.nri', 'io.containerd.internal.v1.opt',
  'io.containerd.snapshotter.v1.aufs', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.blockfile',
]
[timeouts]
  'io.containerd.timeout.shim.shutdown' = '{{.Seconds 3}}'
  'io.containerd.timeout.shim.cleanup' = '{{.Seconds 5}}'
[grpc]
  address = '{{.Address}}'
[ttrpc]
  address = '{{.Address}}.ttrpc'
`))

// World is one running containerd with its images.
type World struct {
	Version   Version
	Dir       string // everything that is this containerd's
	Address   string // of its socket
	Namespace string // containerd namespace to use: unique on the machine
	Path      string // PATH of containerd, and so of its shims
	Client    *containerd.Client
	Debug     bool       // log level of the daemon and its shims
	Node      *node.Node // the stand-in Proxmox host that it runs on, or nil

	daemon *exec.Cmd
	ended  chan struct{} // closed when daemon was reaped
}

// Bin is the directory that `make build` and `make tools` fill.
var Bin = sync.OnceValue(func() string {
	if d := os.Getenv("NEXCAGE_BIN"); d != "" {
		return d
	}
	dir, err := os.Getwd()
	if err != nil {
		return "bin"
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "bin", "tools")); err == nil {
			return filepath.Join(dir, "bin")
		}
	}
	return "bin"
})

// Seconds is a time limit of containerd as it is here.
func (w *World) Seconds(n int) string { return fmt.Sprintf("%ds", n*Slowness()) }

// NewWorld starts a containerd below dir, which must be a directory of the
// session, and imports the images. Close ends it.
func NewWorld(ctx context.Context, v Version, dir string) (*World, error) {
	return start(ctx, v, &World{Dir: filepath.Join(dir, v.Name), Namespace: Token() + "-" + strings.ReplaceAll(v.Name, ".", "")})
}

// NewPVEWorld starts a containerd on a stand-in Proxmox node of StartNode.
func NewPVEWorld(ctx context.Context, v Version, dir string, n *node.Node) (*World, error) {
	return start(ctx, v, &World{
		Dir: filepath.Join(dir, "pve-"+v.Name), Namespace: Token() + "-pve" + strings.ReplaceAll(v.Name, ".", ""), Node: n,
	})
}

func start(ctx context.Context, v Version, w *World) (*World, error) {
	w.Version = v
	w.Path = Bin() + ":" + filepath.Join(Bin(), "tools", v.dir) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if w.Node != nil {
		w.Path = w.Node.Sbin + ":" + w.Path
	}
	w.Debug = os.Getenv("NEXCAGE_TEST_DEBUG") != ""
	w.Address = filepath.Join(w.Dir, "c.sock")
	for _, d := range []string{w.Dir, filepath.Join(w.Dir, "tmp")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
	}
	var conf bytes.Buffer
	if err := v.conf.Execute(&conf, w); err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.ConfigFile(), conf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	if err := w.StartDaemon(ctx); err != nil {
		return nil, err
	}
	if err := w.importImages(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// ConfigFile is containerd's configuration.
func (w *World) ConfigFile() string { return filepath.Join(w.Dir, "config.toml") }

// LogFile is what containerd and, through it, the shims wrote.
func (w *World) LogFile() string { return filepath.Join(w.Dir, "containerd.log") }

// Tool is the path of a program of this containerd's version.
func (w *World) Tool(name string) string {
	return filepath.Join(Bin(), "tools", w.Version.dir, name)
}

// StartDaemon starts containerd, and returns when it says that it is ready.
func (w *World) StartDaemon(ctx context.Context) error {
	ready, err := listenNotify(filepath.Join(w.Dir, "notify"))
	if err != nil {
		return err
	}
	defer ready.Close()
	log, err := os.OpenFile(w.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	level := "info"
	if w.Debug {
		level = "debug"
	}
	cmd := exec.Command(w.Tool("containerd"), "--config", w.ConfigFile(), "--log-level", level)
	cmd.Env = []string{
		"PATH=" + w.Path, "NOTIFY_SOCKET=" + filepath.Join(w.Dir, "notify"), "HOME=/root",
		"TMPDIR=" + filepath.Join(w.Dir, "tmp"), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1",
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd (was `make tools` run?): %w", err)
	}
	w.daemon, w.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait() // its status is of no interest, that it ended is
		ready.Close()
		close(ended)
	}(w.ended)
	if err := awaitReady(ready, time.Minute); err != nil {
		return errors.Join(fmt.Errorf("containerd %s did not become ready, see %s: %w", w.Version.Name, w.LogFile(), err), w.StopDaemon())
	}
	w.Client, err = containerd.New(w.Address, containerd.WithDefaultNamespace(w.Namespace), containerd.WithTimeout(10*time.Second))
	return err
}

func listenNotify(path string) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
}

// awaitReady waits for systemd's READY=1, see sd_notify(3).
func awaitReady(c *net.UnixConn, limit time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
}

// DaemonPid is the process id of containerd.
func (w *World) DaemonPid() int { return w.daemon.Process.Pid }

// StopDaemon ends containerd, and leaves shims and containers alone.
func (w *World) StopDaemon() error {
	if w.Client != nil {
		w.Client.Close()
		w.Client = nil
	}
	if w.daemon == nil {
		return nil
	}
	if err := w.daemon.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-w.ended:
	case <-time.After(20 * time.Second):
		_ = w.daemon.Process.Kill()
		<-w.ended
		return errors.New("containerd had to be killed")
	}
	w.daemon = nil
	return nil
}

// Close ends the world. Its files go with the session's tmpfs.
func (w *World) Close() error { return w.StopDaemon() }

// Context carries the world's containerd namespace.
func (w *World) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, w.Namespace)
}

// Env is the environment in which a client finds this containerd.
func (w *World) Env() []string {
	return append(os.Environ(), "PATH="+filepath.Dir(w.Tool("ctr"))+":"+w.Path,
		"CONTAINERD_ADDRESS="+w.Address, "CONTAINERD_NAMESPACE="+w.Namespace,
		"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
}

// Ctr is a command of this version's ctr.
func (w *World) Ctr(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.Tool("ctr"), args...)
	cmd.Env = w.Env()
	return cmd
}

// Outside is where the hostile image's links lead; it does not exist by itself.
func Outside() string { return filepath.Join(Dir(), "outside") }

// Observer is the program that looks at system calls, in the images too.
func Observer() string { return filepath.Join(Bin(), "tools", "observe") }

func (w *World) importImages(ctx context.Context) error {
	ctx = w.Context(ctx)
	images, err := image.All(Outside(), Observer())
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := w.Import(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// Import loads an image and unpacks it for overlayfs.
func (w *World) Import(ctx context.Context, i image.Image) error {
	archive, err := i.Archive()
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.Name, err)
	}
	if _, err := w.Client.Import(ctx, bytes.NewReader(archive)); err != nil {
		return fmt.Errorf("import image %s: %w", i.Name, err)
	}
	img, err := w.Client.GetImage(ctx, i.Name)
	if err != nil {
		return err
	}
	if err := img.Unpack(ctx, "overlayfs"); err != nil {
		return fmt.Errorf("unpack image %s: %w", i.Name, err)
	}
	return nil
}
