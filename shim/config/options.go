package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// FromOptions is the configuration that a container's runtime options ask
// for; any may be nil.
//
// runtimeoptions.v1.Options replace the file as a whole, nothing is merged:
// config_path names another one, which must exist; without it config_body is
// the text. containerd.runc.v1.Options, which containerd's CRI plugin sends to
// every runtime for a pod with a user namespace, change nothing here and are
// returned as they are, as is in their form what clients of containerd 1.6 and 1.7 send
// for such a container (legacyOptions); without them the second result is nil.
func FromOptions(any typeurl.Any) (*Config, *options.Options, error) {
	return fromOptions(any, DefaultPath)
}

func fromOptions(any typeurl.Any, path string) (*Config, *options.Options, error) {
	if any == nil || any.GetTypeUrl() == "" {
		c, err := Load(path)
		return c, nil, err
	}
	if isLegacy(any.GetTypeUrl()) {
		runc, err := fromLegacy(any.GetValue())
		if err != nil {
			return nil, nil, err
		}
		c, err := Load(path)
		return c, runc, err
	}
	v, err := typeurl.UnmarshalAny(any)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, nil, fmt.Errorf("runtime options %s: %w: %w", any.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
	}
	switch v := v.(type) {
	case *options.Options:
		c, err := Load(path)
		return c, v, err
	case *runtimeoptions.Options:
		c, err := replaced(v, path)
		return c, nil, err
	default:
		return nil, nil, fmt.Errorf("runtime options %s: only runtimeoptions.v1.Options and containerd.runc.v1.Options are understood: %w",
			any.GetTypeUrl(), errdefs.ErrInvalidArgument)
	}
}

// replaced reads what o puts in the place of the file at path. The path goes
// before the body: so it is defined by runtimeoptions.v1.
func replaced(o *runtimeoptions.Options, path string) (*Config, error) {
	switch {
	case o.GetConfigPath() != "":
		return readNamed(o.GetConfigPath())
	case len(o.GetConfigBody()) > 0:
		return parse("in the runtime options", o.GetConfigBody())
	default:
		return Load(path)
	}
}

func readNamed(path string) (*Config, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("runtime options: config_path %q is not absolute: %w", path, errdefs.ErrInvalidArgument)
	}
	c, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("runtime options: config_path: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return c, err
}
