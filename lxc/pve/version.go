package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Version of Proxmox VE. What differs between versions is decided here, and
// nowhere else.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// hostManagesNets says whether net0… may have host-managed=1.
func (v Version) hostManagesNets() bool { return v.atLeast(9, 1) }

func (v Version) atLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

var versionLine = regexp.MustCompile(`^pve-manager/(\d+)\.(\d+)`)

// parseVersion reads "pve-manager/9.1.4/5ac30304265fbd8e (running kernel: …)".
func parseVersion(text string) (Version, error) {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("version of Proxmox VE: %q: %w", text, errdefs.ErrFailedPrecondition)
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return Version{}, err
	}
	minor, err := strconv.Atoi(m[2])
	return Version{major, minor}, err
}

// version asks pveversion once after each boot, and after each upgrade.
func (n *Node) version(ctx context.Context, client *Client) (Version, error) {
	tool, err := lookPath(client.Pveversion, "pveversion")
	if err != nil {
		return Version{}, err
	}
	path := filepath.Join(n.Keep, "version")
	if newer(path, tool) {
		if text, err := os.ReadFile(path); err == nil {
			return parseVersion(string(text))
		}
	}
	text, err := askVersion(ctx, tool)
	if err != nil {
		return Version{}, err
	}
	v, err := parseVersion(text)
	if err != nil {
		return v, err
	}
	err = os.MkdirAll(n.Keep, 0o700)
	return v, errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
}

// newer says whether a file was written after the tool was installed, which is the
// last change of its inode: its time of modification is that of its package's build.
func newer(path, tool string) bool {
	var file, installed unix.Stat_t
	if unix.Stat(path, &file) != nil || unix.Stat(tool, &installed) != nil {
		return false
	}
	return file.Ctim.Nano() > installed.Ctim.Nano()
}

func askVersion(ctx context.Context, tool string) (string, error) {
	out, code, err := run(ctx, nil, nil, tool)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d: %s", code, last(out.Stderr, maxLines))
	}
	if err != nil {
		return "", fmt.Errorf("pveversion: %w", err)
	}
	return out.Stdout, nil
}
