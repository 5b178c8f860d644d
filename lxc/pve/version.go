package pve

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/containerd/errdefs"
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

func (c *Client) version(ctx context.Context) (string, error) {
	path, err := lookPath(c.Pveversion, "pveversion")
	if err != nil {
		return "", err
	}
	out, code, err := run(ctx, nil, path)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d: %s", code, last(out.Stderr, maxLines))
	}
	if err != nil {
		return "", fmt.Errorf("pveversion: %w", err)
	}
	return out.Stdout, nil
}
