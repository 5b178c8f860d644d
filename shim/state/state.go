// Package state keeps what a shim knows of a container on disk, at
// /run/nexcage/<namespace>/<id>/state.json: for operators to read, and for
// the delete verb, which has nothing else when the shim has died.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
)

// State is the content of state.json: the state of the runtime-spec, and what
// is our own.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	PID         int               `json:"pid,omitempty"` // of the host
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Namespace  string    `json:"namespace"`
	Backend    string    `json:"backend"`              // lxc or crun
	Reason     string    `json:"reason"`               // why it was routed there
	PodBackend string    `json:"podBackend,omitempty"` // of a sandbox: where its containers go
	Host       string    `json:"host,omitempty"`       // native or pve
	VMID       int       `json:"vmid,omitempty"`       // of the CT on Proxmox
	CreatedAt  time.Time `json:"createdAt"`
	Shim       lxc.Proc  `json:"shim"` // the process that serves the container

	// LXC is what package lxc needs to destroy the container.
	LXC *lxc.Record `json:"lxc,omitempty"`
	// Crun are the options that the container was created with.
	Crun *options.Options `json:"crun,omitempty"`
	// Exit is set once the container has ended.
	Exit *Exit `json:"exit,omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Status int       `json:"status"`
	At     time.Time `json:"at"`
}

// Dir is the directory of one container: <state_dir>/<namespace>/<id>.
type Dir string

const fileName = "state.json"

// DirOf returns the directory of a container. Namespace and id are
// containerd's identifiers; anything else is refused, as it becomes a path.
func DirOf(stateDir, namespace, id string) (Dir, error) {
	for _, s := range []string{namespace, id} {
		if err := identifiers.Validate(s); err != nil {
			return "", err
		}
	}
	return Dir(filepath.Join(stateDir, namespace, id)), nil
}

// Make creates the directory, for root only. ErrAlreadyExists if there is a
// container in it.
func (d Dir) Make() error {
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(string(d), 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("state directory %s: %w", d, errdefs.ErrAlreadyExists)
		}
		return err
	}
	return nil
}

// Write replaces state.json: a reader sees the old one or the new one. It is
// not synced to the disk, as it need not outlive the boot.
func (d Dir) Write(s *State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(string(d), fileName)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Read returns the state; ErrNotFound if there is none.
func (d Dir) Read() (*State, error) {
	path := filepath.Join(string(d), fileName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	s := &State{}
	if err := dec.Decode(s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if dec.More() {
		return nil, fmt.Errorf("%s: more than one value", path)
	}
	return s, nil
}

// Remove removes the directory and the files in it. It does not descend: a
// directory in it is not ours to remove, and an error; then the state stays,
// too.
func (d Dir) Remove() error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			return fmt.Errorf("%s: %w", filepath.Join(string(d), e.Name()), unix.EISDIR)
		}
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(string(d), e.Name())))
	}
	return errors.Join(append(errs, os.Remove(string(d)))...)
}
