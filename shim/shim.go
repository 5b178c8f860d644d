// Package shim is the program containerd-shim-nexcage-v2: its command line,
// as containerd calls it, and the process that serves the task API.
package shim

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
	"github.com/cageforge/containerd-shim-nexcage/oci"
	"github.com/cageforge/containerd-shim-nexcage/shim/bootstrap"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/crun"
	"github.com/cageforge/containerd-shim-nexcage/shim/task"
)

// Name of the runtime, as users give it to containerd.
const Name = "io.containerd.nexcage.v2"

// Set by the build.
var (
	Version  = "unknown"
	Revision = "unknown"
)

// command is the command line that containerd uses.
type command struct {
	id, namespace, address, bundle string
	socket                         string
	debug, version, info           bool
	verb                           string
	unused                         bool // of gc
}

// Main runs the shim and returns the exit code.
func Main() int {
	c, err := parse(os.Args[1:])
	if err == nil {
		err = c.run(context.Background())
	}
	if errors.Is(err, flag.ErrHelp) {
		return 0 // it has been printed
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", Name, err)
		return 1
	}
	return 0
}

func parse(args []string) (*command, error) {
	c := &command{}
	f := flag.NewFlagSet(filepath.Base(os.Args[0]), flag.ContinueOnError)
	f.StringVar(&c.namespace, "namespace", "", "containerd namespace of the container")
	f.StringVar(&c.id, "id", "", "id of the container")
	f.StringVar(&c.address, "address", "", "address of containerd's gRPC API")
	f.StringVar(&c.bundle, "bundle", "", "bundle directory, if it is not the working directory")
	f.StringVar(&c.socket, "socket", "", "socket to serve; descriptor 3 if empty")
	f.BoolVar(&c.debug, "debug", false, "log at debug level")
	f.BoolVar(&c.version, "v", false, "print the version")
	f.BoolVar(&c.version, "version", false, "print the version")
	f.BoolVar(&c.info, "info", false, "read runtime options from stdin, write the runtime's features to stdout (protobuf)")
	// containerd gives them still.
	f.String("publish-binary", "", "ignored: events go to TTRPC_ADDRESS")
	f.String("debug-socket", "", "ignored")
	f.Usage = func() { usage(f) }
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	c.verb = f.Arg(0)
	if c.verb != "gc" || f.NArg() == 1 {
		return c, nil
	}
	g := flag.NewFlagSet("gc", flag.ContinueOnError)
	g.BoolVar(&c.unused, "templates", false, "remove templates that no container uses, whatever their age")
	return c, g.Parse(f.Args()[1:])
}

func usage(f *flag.FlagSet) {
	fmt.Fprintf(f.Output(), `The containerd runtime %s. For operators:

  %[2]s gc [-templates]   remove what containers have left on this Proxmox VE node
  %[2]s templates         list the templates of images on it
  %[2]s -version

containerd runs it with -namespace, -id and the verb start or delete. All flags:

`, Name, f.Name())
	f.PrintDefaults()
}

func (c *command) run(ctx context.Context) error {
	switch {
	case c.version:
		fmt.Printf("%s:\n  Version:    %s\n  Revision:   %s\n  Go version: %s\n", filepath.Base(os.Args[0]), Version, Revision, runtime.Version())
		return nil
	case c.info:
		return info(ctx, os.Stdin, os.Stdout)
	case c.verb == "gc":
		return gc(ctx, os.Stdout, c.unused)
	case c.verb == "templates":
		return templates(os.Stdout)
	case c.namespace == "":
		return fmt.Errorf("-namespace is required: %w", errdefs.ErrInvalidArgument)
	case c.id == "":
		return fmt.Errorf("-id is required: %w", errdefs.ErrInvalidArgument)
	}
	ctx = namespaces.WithNamespace(ctx, c.namespace)
	switch c.verb {
	case "start":
		p := bootstrap.Params{ID: c.id, Namespace: c.namespace, Address: c.address, TTRPCAddress: os.Getenv(ttrpcAddress), Debug: c.debug}
		return bootstrap.Start(ctx, p, os.Stdin, os.Stdout)
	case "delete":
		return c.delete(ctx, os.Stdout)
	case "":
		return c.serve(ctx)
	default:
		return fmt.Errorf("verb %q is not one of start, delete, gc, templates: %w", c.verb, errdefs.ErrInvalidArgument)
	}
}

// deleteTimeout is what the delete verb takes at most; containerd gives it 5 s.
const deleteTimeout = 3 * time.Second

// delete removes what a container has left whose shim has ended.
func (c *command) delete(ctx context.Context, stdout io.Writer) error {
	if err := reaper.SetSubreaper(1); err != nil {
		return err
	}
	reap, stop := context.WithCancel(ctx)
	defer stop()
	go child.Reap(reap)
	bundle := c.bundle
	if bundle == "" {
		var err error
		if bundle, err = os.Getwd(); err != nil {
			return err
		}
	}
	if err := bootstrap.RemoveSocket(bundle); err != nil {
		log.G(ctx).WithError(err).Warn("remove the socket of the shim")
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	stopped, err := task.Delete(ctx, c.namespace, c.id, bundle)
	if err = errors.Join(err, bootstrap.RemoveSocket(bundle)); err != nil {
		return err
	}
	answer, err := proto.Marshal(&taskAPI.DeleteResponse{
		Pid:        uint32(stopped.PID),
		ExitStatus: uint32(stopped.Status),
		ExitedAt:   protobuf.ToTimestamp(stopped.At),
	})
	if err != nil {
		return err
	}
	_, err = stdout.Write(answer)
	return err
}

// info answers with the features of the backend that containers with the
// options on stdin get by default.
func info(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	var opts anypb.Any
	if err := proto.Unmarshal(input, &opts); err != nil {
		return fmt.Errorf("runtime options on stdin: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	known, err := featuresFor(ctx, &opts)
	if err != nil {
		return err
	}
	document, err := typeurl.MarshalAnyToProto(known)
	if err != nil {
		return err
	}
	i := &types.RuntimeInfo{
		Name:     Name,
		Version:  &types.RuntimeVersion{Version: Version, Revision: Revision},
		Features: document,
	}
	if opts.TypeUrl != "" {
		i.Options = &opts
	}
	answer, err := proto.Marshal(i)
	if err != nil {
		return err
	}
	_, err = stdout.Write(answer)
	return err
}

// featuresFor are LXC's, or the engine's where the configuration that the options
// ask for makes crun the default.
func featuresFor(ctx context.Context, opts typeurl.Any) (*features.Features, error) {
	c, runc, err := config.FromOptions(opts)
	if err != nil {
		return nil, err
	}
	if c.Routing.DefaultBackend != config.BackendCrun {
		return oci.Features(), nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go child.Reap(ctx)
	return crun.Features(ctx, cmp.Or(runc.GetBinaryName(), c.Crun.Path))
}
