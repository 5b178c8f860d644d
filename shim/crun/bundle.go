package crun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/lxc/hook"
)

// bundle is an OCI bundle, and of its configuration what matters here. The
// engine validates the rest.
type bundle struct {
	path   string
	raw    []byte // config.json
	config struct {
		Version     string            `json:"ociVersion"`
		Hooks       specs.Hooks       `json:"hooks"`
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
}

func loadBundle(path string) (*bundle, error) {
	b := &bundle{path: path}
	var err error
	if b.raw, err = os.ReadFile(b.configPath()); err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	if err := json.Unmarshal(b.raw, &b.config); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", b.configPath(), err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func (b *bundle) configPath() string { return filepath.Join(b.path, "config.json") }

// setVersion changes ociVersion in config.json, and not another byte.
func (b *bundle) setVersion(version string) error {
	raw, err := replaceVersion(b.raw, version)
	if err != nil {
		return fmt.Errorf("%s: %w", b.configPath(), err)
	}
	if err := replaceFile(b.configPath(), raw); err != nil {
		return fmt.Errorf("lower ociVersion: %w", err)
	}
	b.raw, b.config.Version = raw, version
	return nil
}

// replaceVersion puts version in place of the value of ociVersion in the
// JSON object raw.
func replaceVersion(raw []byte, version string) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		if key != "ociVersion" {
			continue
		}
		end := int(d.InputOffset())
		quoted, err := json.Marshal(version)
		if err != nil {
			return nil, err
		}
		return bytes.Join([][]byte{raw[:end-len(value)], quoted, raw[end:]}, nil), nil
	}
	return nil, fmt.Errorf("no ociVersion: %w", errdefs.ErrInvalidArgument)
}

// replaceFile writes a file anew, with the mode and the owner that it had: a
// reader sees the old one or the new one.
func replaceFile(path string, data []byte) (err error) {
	was, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil { // containerd may have given the bundle to a user namespace
		st := was.Sys().(*syscall.Stat_t)
		err = f.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = f.Chmod(was.Mode())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// hookBound is how long the poststop hooks of a failed create may take.
const hookBound = 30 * time.Second

// poststop runs the poststop hooks of a container whose creation failed, if
// the engine began with it and has forgotten it: hooks before may have given
// it a network address. Failures are logged, as the runtime-spec wants it.
func (b *bundle) poststop(ctx context.Context, id, root string) {
	if len(b.config.Hooks.Poststop) == 0 || !exists(filepath.Join(b.path, "log.json")) {
		return // the engine makes this file when it starts
	}
	namespace, _ := namespaces.Namespace(ctx)
	if root == "" {
		root = process.RuncRoot
	}
	if exists(filepath.Join(root, namespace, id)) {
		return // the engine's delete is still to come, and runs them
	}
	// Whoever asked for the container may have gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookBound)
	defer cancel()
	state := &specs.State{
		Version: b.config.Version, ID: id, Status: specs.StateStopped,
		Bundle: b.path, Annotations: b.config.Annotations,
	}
	_ = hook.RunAll(ctx, "poststop", b.config.Hooks.Poststop, state) // has logged what fails
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
