package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// State of a snapshot, as far as its directory tells.
type State int

// States of a snapshot.
const (
	Unknown  State = iota // its snapshotter's directory is not there either
	Present               // it is there
	Gone                  // containerd has removed it
	Replaced              // another directory is at its place
)

// State says whether containerd still has the snapshot. Unknown where the
// directory of all snapshots is not there, as when it is on a file system that
// is not mounted.
func (id ID) State() (State, error) {
	now, err := idOf(id.Path)
	switch {
	case err == nil && now == id:
		return Present, nil
	case err == nil:
		return Replaced, nil
	case !errors.Is(err, fs.ErrNotExist):
		return Unknown, err
	}
	// SNAPSHOTTER/snapshots/NUMBER/fs, beside SNAPSHOTTER/metadata.db.
	snapshots := filepath.Dir(filepath.Dir(id.Path))
	for _, path := range []string{snapshots, filepath.Join(filepath.Dir(snapshots), "metadata.db")} {
		if _, err := os.Stat(path); err != nil {
			return Unknown, nil //nolint:nilerr // then nothing is known of it
		}
	}
	return Gone, nil
}
