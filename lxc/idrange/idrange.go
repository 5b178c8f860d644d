// Package idrange hands out ranges of subordinate ids (subuid(5), subgid(5))
// for the user namespaces of containers, each range to one at a time.
//
// Who has a range is in a directory, a file for each: so that every shim sees
// it, and what a shim left that was killed is found, as the file names the
// directory of the container's state. A range whose owner has no such
// directory any more is free.
package idrange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// Source is where ranges come from.
type Source struct {
	Dir    string // absolute; made when it is needed
	User   string // whose subordinate ids they are: a name, or a number
	Size   uint32 // of a range
	Shared bool   // everybody gets the first range

	SubUID, SubGID string // "" for /etc/subuid and /etc/subgid
}

// Range is Size ids from UID and from GID on, of the host.
type Range struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Size uint32 `json:"size"`
	File string `json:"file,omitempty"` // says that it is taken; "" for a shared one
}

// Map maps the ids from 0 on to the range.
func (r Range) Map() oci.IDMap {
	return oci.IDMap{
		UIDs: []specs.LinuxIDMapping{{HostID: r.UID, Size: r.Size}},
		GIDs: []specs.LinuxIDMapping{{HostID: r.GID, Size: r.Size}},
	}
}

// Free gives the range back. It may be called again.
func (r Range) Free() error {
	if r.File == "" {
		return nil
	}
	if err := os.Remove(r.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free a range of ids: %w", err)
	}
	return nil
}

// Take finds a free range for the container whose state is in the directory
// owner, which exists. ErrResourceExhausted if there is none,
// ErrFailedPrecondition if the user has none at all.
func (s Source) Take(owner string) (Range, error) {
	all, err := s.ranges()
	if err != nil {
		return Range{}, err
	}
	if s.Shared {
		return all[0], nil
	}
	unlock, err := s.lock()
	if err != nil {
		return Range{}, err
	}
	defer unlock()
	taken, err := s.taken()
	if err != nil {
		return Range{}, err
	}
	for _, r := range all {
		if !r.overlaps(taken) {
			return s.take(r, owner)
		}
	}
	return Range{}, fmt.Errorf("all %d ranges of %d subordinate ids that user %q has are in use (see /etc/subuid and /etc/subgid, or let containers share one): %w",
		len(all), s.Size, s.User, errdefs.ErrResourceExhausted)
}

func (s Source) take(r Range, owner string) (Range, error) {
	r.File = filepath.Join(s.Dir, fmt.Sprintf("%d-%d-%d", r.UID, r.GID, r.Size))
	if err := os.WriteFile(r.File, []byte(owner), 0o600); err != nil {
		return Range{}, errors.Join(err, r.Free())
	}
	return r, nil
}

// lock keeps other shims from taking a range meanwhile.
func (s Source) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(s.Dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", s.Dir, err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil // ends the lock
}

// taken lists the ranges in use, and frees those whose owner is gone.
func (s Source) taken() (taken []Range, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		r, err := parseName(e.Name())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(s.Dir, e.Name()), err)
		}
		r.File = filepath.Join(s.Dir, e.Name())
		live, err := r.owned()
		if err == nil && !live {
			err = r.Free()
		}
		if err != nil {
			return nil, err
		}
		if live {
			taken = append(taken, r)
		}
	}
	return taken, nil
}

// owned says whether the container that took the range is still known.
func (r Range) owned() (bool, error) {
	owner, err := os.ReadFile(r.File)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(owner) == 0 {
		return false, nil // freed just now, or its shim was killed just then
	}
	if err != nil {
		return false, err
	}
	_, err = os.Stat(string(owner))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (r Range) overlaps(taken []Range) bool {
	for _, t := range taken {
		if overlap(r.UID, t.UID, r.Size, t.Size) || overlap(r.GID, t.GID, r.Size, t.Size) {
			return true
		}
	}
	return false
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

func parseName(name string) (Range, error) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return Range{}, fmt.Errorf("not the name of a range: %w", errdefs.ErrFailedPrecondition)
	}
	var n [3]uint32
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return Range{}, fmt.Errorf("not the name of a range: %w", err)
		}
		n[i] = uint32(v)
	}
	return Range{UID: n[0], GID: n[1], Size: n[2]}, nil
}

// ranges are all that the user has, at least one.
func (s Source) ranges() ([]Range, error) {
	uids, err := s.starts(s.SubUID, "/etc/subuid")
	if err != nil {
		return nil, err
	}
	gids, err := s.starts(s.SubGID, "/etc/subgid")
	if err != nil {
		return nil, err
	}
	out := make([]Range, min(len(uids), len(gids)))
	for i := range out {
		out[i] = Range{UID: uids[i], GID: gids[i], Size: s.Size}
	}
	return out, nil
}

// starts are the first ids of the ranges in a file of subordinate ids.
func (s Source) starts(path, usual string) (starts []uint32, err error) {
	if path == "" {
		path = usual
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("subordinate ids: %w", err)
	}
	starts = parseSubIDs(string(text), s.names(), s.Size)
	if len(starts) == 0 {
		return nil, fmt.Errorf("%s: user %q has no %d ids in a row: %w", path, s.User, s.Size, errdefs.ErrFailedPrecondition)
	}
	return starts, nil
}

// names are those that the user may have in the files.
func (s Source) names() []string {
	names := []string{s.User}
	if u, err := user.Lookup(s.User); err == nil {
		names = append(names, u.Uid)
	} else if u, err := user.LookupId(s.User); err == nil {
		names = append(names, u.Username)
	}
	return names
}

// parseSubIDs takes the lines "user:first:count" of a user; others may be
// anything. The last id of all is none.
func parseSubIDs(text string, users []string, size uint32) (starts []uint32) {
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || !slices.Contains(users, fields[0]) {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil || size == 0 {
			continue
		}
		end := min(first+count, 1<<32-1)
		for ; first+uint64(size) <= end; first += uint64(size) {
			starts = append(starts, uint32(first))
		}
	}
	return starts
}
