package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// Path translates linux.cgroupsPath into a path below the mount point of each
// hierarchy, without a slash before it, as lxc.cgroup.dir.container wants it.
// A relative path is taken from the root of the hierarchies. For an empty
// cgroupsPath it is fallback.
//
// systemd's form slice:prefix:name is another package's: see Adopt.
func Path(cgroupsPath, fallback string) (string, error) {
	p := cgroupsPath
	if p == "" {
		p = fallback
	}
	if strings.ContainsFunc(p, unicode.IsControl) {
		return "", pathError(p, "has a control character", errdefs.ErrInvalidArgument)
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

func pathError(p, reason string, class error) error {
	return fmt.Errorf("linux.cgroupsPath: %q %s: %w", p, reason, class)
}
