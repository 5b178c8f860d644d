package pve

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// CheckIDs finds ids that LXC could not map for a new user namespace. Where
// newuidmap and newgidmap are, as on every node of Proxmox, LXC lets them write
// the mapping, and they give root as well only what is its own by subuid(5) and
// subgid(5). ErrFailedPrecondition names the mapping; LXC would only say that it
// failed.
func (n *Node) CheckIDs(m oci.IDMap) error {
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if ok, err := n.mayMap(tool); err != nil || !ok {
			return err
		}
	}
	return errors.Join(
		checkSubIDs("linux.uidMappings", filepath.Join(n.SubIDs, "subuid"), m.UIDs),
		checkSubIDs("linux.gidMappings", filepath.Join(n.SubIDs, "subgid"), m.GIDs),
	)
}

// mayMap says whether LXC takes the tool to work: it is set-uid, or has
// capabilities (LXC's idmap_utils.c).
func (n *Node) mayMap(tool string) (bool, error) {
	for _, dir := range n.Path {
		path := filepath.Join(dir, tool)
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		size, err := unix.Getxattr(path, "security.capability", nil)
		return st.Mode()&fs.ModeSetuid != 0 || err == nil && size > 0, nil
	}
	return false, nil
}

func checkSubIDs(property, path string, mappings []specs.LinuxIDMapping) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", property, err)
	}
	own := subIDs(string(text))
	for i, m := range mappings {
		if m.HostID == 0 && m.Size == 1 || own.have(m.HostID, m.Size) {
			continue
		}
		return fmt.Errorf("%s[%d]: LXC on this node maps for root only what it has in %s, which lacks the host's ids %d to %d: add the line root:%d:%d: %w",
			property, i, path, m.HostID, uint64(m.HostID)+uint64(m.Size)-1, m.HostID, m.Size, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// idRange is from the first id to before the end.
type idRange struct{ first, end uint64 }

// idRanges do not overlap, and are in order.
type idRanges []idRange

// subIDs are root's ranges in a file of subordinate ids. Other lines may be
// anything.
func subIDs(text string) (all idRanges) {
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || fields[0] != "root" && fields[0] != "0" {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			all = append(all, idRange{first, first + count})
		}
	}
	slices.SortFunc(all, func(a, b idRange) int { return cmp.Compare(a.first, b.first) })
	var merged idRanges
	for _, r := range all {
		if last := len(merged) - 1; last >= 0 && r.first <= merged[last].end {
			merged[last].end = max(merged[last].end, r.end)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

func (all idRanges) have(first, size uint32) bool {
	return slices.ContainsFunc(all, func(r idRange) bool { return r.first <= uint64(first) && uint64(first)+uint64(size) <= r.end })
}
