package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxConfig is the size of the largest config.json that is read, in bytes. A
// spec of containerd has 5 to 50 KiB; the kernel bounds arguments and
// environment, the largest parts, to 6 MiB.
const maxConfig = 10 << 20

// Load reads config.json of a bundle. Properties that the runtime-spec does
// not know are ignored, as it demands; a value of the wrong type is a
// *FieldError. The values themselves are checked by Translate.
func Load(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d MiB: %w", f.Name(), maxConfig>>20, errdefs.ErrInvalidArgument)
	}
	s, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

// Parse decodes the content of a config.json.
func Parse(b []byte) (*specs.Spec, error) { return decode[specs.Spec](b, "") }

// ParseProcess decodes the process of an exec, and checks it like the one of
// a container: what is said of CheckProcess goes for it.
func ParseProcess(b []byte) (p *specs.Process, warnings []string, err error) {
	if p, err = decode[specs.Process](b, "process"); err != nil {
		return nil, nil, err
	}
	warnings, err = CheckProcess(p)
	return p, warnings, err
}

// ParseResources decodes and checks the resources of an update, which errors name
// as in a spec.
func ParseResources(b []byte) (*specs.LinuxResources, error) {
	r, err := decode[specs.LinuxResources](b, "linux.resources")
	if err != nil {
		return nil, err
	}
	return r, CheckResources("linux.resources", r)
}

// decode reads one JSON object, of which errors say that it is at path.
func decode[T any](b []byte, path string) (*T, error) {
	var v *T
	err := json.Unmarshal(b, &v)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return nil, invalid(join(path, wrong.Field), nil, "a JSON %s can not be a %s", wrong.Value, wrong.Type)
	case err != nil:
		return nil, fmt.Errorf("not valid JSON: %w: %w", err, errdefs.ErrInvalidArgument)
	case v == nil:
		return nil, fmt.Errorf("no JSON object, but null: %w", errdefs.ErrInvalidArgument)
	}
	return v, nil
}

func join(path, field string) string {
	switch {
	case path == "":
		return field
	case field == "":
		return path
	}
	return path + "." + field
}
