package oci

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/oci/lxcconf"
)

// input is what every step translates from.
type input struct {
	bundle string // absolute
	spec   *specs.Spec
	linux  *specs.Linux // spec.linux, or an empty one
}

// steps translate one section of the spec each: they read the input, and
// write the parts of the plan that are theirs. They are in the order in which
// the first error is the most useful one.
var steps = []func(input, *Plan) error{
	translateVersion,
	refuseUnsupported,
	translateRoot,
	translateNamespaces,
	translateHostname,
	translateProcess,
	translatePersonality,
	translateMemoryPolicy,
	translateTimeOffsets,
	translateMounts,
	translateMountLabel,
	translateDevices,
	translatePaths,
	translateCgroupsPath,
	translateResources,
	translateNetDevices,
	translateIntelRdt,
	translateSysctl,
	translateSeccomp,
	translateHooks,
	translateAnnotations,
	translateIDMap,
}

// Translate checks a spec and translates it for LXC; bundle is the absolute
// path that relative paths of the spec start from. It is complete: what it
// returns honours every property of the spec, or it returns a *FieldError
// that names the one that is wrong (errdefs.ErrInvalidArgument) or not
// supported (errdefs.ErrNotImplemented). Exceptions are only those that the
// runtime-spec makes itself; they are in Plan.Warnings.
//
// The plan shares memory with the spec.
func Translate(bundle string, spec *specs.Spec) (*Plan, error) {
	in := input{bundle: bundle, spec: spec, linux: spec.Linux}
	if !filepath.IsAbs(bundle) {
		return nil, invalid("bundle", bundle, "is not an absolute path")
	}
	if in.linux == nil {
		in.linux = &specs.Linux{}
	}
	p := &Plan{}
	for _, step := range steps {
		if err := step(in, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// config adds a line to the LXC configuration, for the property at path.
func (p *Plan) config(path, key, value string) error {
	line := lxcconf.Set(key, value)
	if _, err := lxcconf.Marshal([]lxcconf.Line{line}); err != nil {
		return invalid(path, value, "can not be written to an LXC configuration, which has no quoting")
	}
	p.Config = append(p.Config, line)
	return nil
}

func (p *Plan) warn(path string, value any, reason string) {
	p.Warnings = append(p.Warnings, warning(path, value, reason))
}

func warning(path string, value any, reason string) string {
	return (&FieldError{Path: path, Value: value, Reason: reason}).Error()
}

// translateVersion accepts every 1.x: minor versions only add properties, and
// an unknown property is ignored in any version.
func translateVersion(in input, p *Plan) error {
	v := in.spec.Version
	release, _, _ := strings.Cut(v, "-")
	release, _, _ = strings.Cut(release, "+")
	parts := strings.Split(release, ".")
	if len(parts) != 3 {
		return invalid("ociVersion", v, "is not a semantic version")
	}
	var n [3]uint64
	for i, s := range parts {
		var err error
		if n[i], err = strconv.ParseUint(s, 10, 32); err != nil {
			return invalid("ociVersion", v, "is not a semantic version")
		}
	}
	if n[0] != specs.VersionMajor {
		return invalid("ociVersion", v, "is not supported: 1.x is, up to %s", specs.Version)
	}
	if n[1] > specs.VersionMinor {
		p.warn("ociVersion", v, "is newer than "+specs.Version+": properties that it adds are ignored")
	}
	return nil
}

func translateAnnotations(in input, _ *Plan) error {
	if _, ok := in.spec.Annotations[""]; ok {
		return invalid("annotations", nil, "a key is empty")
	}
	return nil
}
