package config

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
)

const (
	helperName = "nexcage-init"
	libexec    = "/usr/libexec/nexcage"
)

// FindHelper is the path of the helper: lxc.helper if that is set; otherwise
// it is searched beside the shim, whose binary the caller names, then in
// /usr/libexec/nexcage. It fails with errdefs.ErrFailedPrecondition.
func (l *LXC) FindHelper(shim string) (string, error) {
	candidates := []string{l.Helper}
	if l.Helper == "" {
		candidates = []string{filepath.Join(filepath.Dir(shim), helperName), filepath.Join(libexec, helperName)}
	}
	var errs []error
	for _, c := range candidates {
		if !filepath.IsAbs(c) {
			continue // LookPath would search $PATH
		}
		path, err := exec.LookPath(c)
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no helper: install %s or set lxc.helper: %w: %w",
		filepath.Join(libexec, helperName), errors.Join(errs...), errdefs.ErrFailedPrecondition)
}
