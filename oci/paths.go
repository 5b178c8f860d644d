package oci

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func translatePaths(in input, p *Plan) (err error) {
	if p.MaskedPaths, err = containerPaths("linux.maskedPaths", in.linux.MaskedPaths); err != nil {
		return err
	}
	p.ReadonlyPaths, err = containerPaths("linux.readonlyPaths", in.linux.ReadonlyPaths)
	return err
}

func containerPaths(path string, list []string) ([]string, error) {
	var out []string
	for i, s := range list {
		if !filepath.IsAbs(s) {
			return nil, invalid(at(path, i), s, "is not an absolute path")
		}
		if err := noNUL(at(path, i), s); err != nil {
			return nil, err
		}
		out = append(out, filepath.Clean(s))
	}
	return out, nil
}

// translateCgroupsPath refuses what could lead out of the place that the path
// names. Which of the two forms it has is not looked at.
func translateCgroupsPath(in input, p *Plan) error {
	const path = "linux.cgroupsPath"
	value := in.linux.CgroupsPath
	if strings.ContainsFunc(value, isControl) {
		return invalid(path, value, "has a control character")
	}
	if slices.Contains(strings.Split(value, "/"), "..") {
		return invalid(path, value, `has a ".." in it`)
	}
	p.CgroupsPath = value
	return nil
}

// DelegatesCgroup says whether the control group is to belong to the user of the
// process: it has a cgroup namespace of its own, and sees it in a mount that is
// not read-only (runtime-spec, Cgroup ownership).
func (p *Plan) DelegatesCgroup() bool {
	return p.isNew(specs.CgroupNamespace) && slices.ContainsFunc(p.Mounts, func(m Mount) bool {
		return m.Kind == MountCgroup && m.Source == "cgroup" && m.Destination == "/sys/fs/cgroup" && (m.Set|m.RecSet)&unix.MOUNT_ATTR_RDONLY == 0
	})
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
