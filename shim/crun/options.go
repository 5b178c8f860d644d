package crun

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// forTask turns the runtime options of a task into those of the runc shim,
// the only ones that containerd's service understands. Options of runc's own
// form stay as they are; only an engine is filled in.
func (o *Options) forTask(any *anypb.Any, b *bundle) (*options.Options, error) {
	opts := &options.Options{
		Root:          o.Root,
		SystemdCgroup: o.SystemdCgroup || systemdPath(b.config.Linux.CgroupsPath),
	}
	if any.GetTypeUrl() != "" {
		v, err := typeurl.UnmarshalAny(any)
		if err != nil {
			return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		switch v := v.(type) {
		case *options.Options:
			opts = v
		case *runtimeoptions.Options:
			// They are the shim's, not the engine's.
		default:
			return nil, fmt.Errorf("runtime options: %s is neither containerd.runc.v1.Options nor runtimeoptions.v1.Options: %w",
				any.GetTypeUrl(), errdefs.ErrInvalidArgument)
		}
	}
	if opts.BinaryName == "" {
		opts.BinaryName = o.Binary
	}
	return opts, nil
}

// systemdPath tells whether a cgroupsPath is systemd's slice:prefix:name.
func systemdPath(path string) bool { return strings.Count(path, ":") == 2 }

func marshalOptions(opts *options.Options) (*anypb.Any, error) {
	any, err := typeurl.MarshalAnyToProto(opts)
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	return any, nil
}
