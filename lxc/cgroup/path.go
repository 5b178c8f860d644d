package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// systemdDir exists while systemd is the init system (sd_booted(3)).
var systemdDir = "/run/systemd/system"

// Path translates linux.cgroupsPath into a path below the mount point of each
// hierarchy, without a slash before it, as lxc.cgroup.dir.container wants it.
// A relative path is taken from the root of the hierarchies. For an empty
// cgroupsPath it is fallback.
//
// systemd's form slice:prefix:name needs a scope that systemd makes: it is
// refused for now.
func Path(cgroupsPath, fallback string) (string, error) {
	p := cgroupsPath
	if p == "" {
		p = fallback
	}
	if strings.ContainsFunc(p, unicode.IsControl) {
		return "", pathError(p, "has a control character", errdefs.ErrInvalidArgument)
	}
	if !strings.HasPrefix(p, "/") && strings.Count(p, ":") == 2 {
		return "", refuseSystemd(p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return "", pathError(p, "goes up by ..", errdefs.ErrInvalidArgument)
		}
	}
	clean := strings.TrimPrefix(filepath.Clean("/"+p), "/")
	if clean == "" {
		return "", pathError(p, "is the root of all control groups", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

func refuseSystemd(p string) error {
	if _, err := os.Stat(systemdDir); err != nil {
		return pathError(p, "is a systemd unit (slice:prefix:name), but systemd is not running: "+
			"use cgroupfs as the cgroup driver", errdefs.ErrFailedPrecondition)
	}
	return pathError(p, "is a systemd unit (slice:prefix:name), which is not supported yet: "+
		"use cgroupfs as the cgroup driver", errdefs.ErrNotImplemented)
}

func pathError(p, reason string, class error) error {
	return fmt.Errorf("linux.cgroupsPath: %q %s: %w", p, reason, class)
}
