package crun

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cageforge/containerd-shim-nexcage/lxc/child"
)

// askBound is how long an engine may take to tell about itself.
const askBound = 10 * time.Second

// version of an engine, or of the runtime-spec: major, minor, patch.
type version [3]int

var versionPattern = regexp.MustCompile(`^(\d+)\.(\d+)(?:\.(\d+))?`)

// parseVersion reads the numbers at the beginning of s; what follows, as in
// 1.0.2-dev, does not count.
func parseVersion(s string) (version, bool) {
	var v version
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return v, false
	}
	for i, digits := range m[1:] {
		n, err := strconv.Atoi(digits)
		if err != nil && digits != "" {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// engine is a binary with runc's command line.
type engine struct {
	path    string
	name    string // as it calls itself; "" if it does not say
	version version
	parts   []string // what it is built with, as in +SECCOMP
}

// engines asks each engine once what it is.
type engines struct {
	cache string     // directory of what other shims have asked; "" for none
	mu    sync.Mutex // held while an engine is asked
	known map[string]*engine
}

// get finds an engine by its path or name.
func (s *engines) get(ctx context.Context, binary string) (*engine, error) {
	path, err := exec.LookPath(binary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: install it, or configure the path of the engine: %w", err, errdefs.ErrFailedPrecondition)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.known[path]; ok {
		return e, nil
	}
	e, err := s.find(ctx, path)
	if err != nil {
		return nil, err
	}
	if s.known == nil {
		s.known = map[string]*engine{}
	}
	s.known[path] = e
	return e, nil
}

// find recalls the engine, or asks it.
func (s *engines) find(ctx context.Context, path string) (*engine, error) {
	if s.cache == "" {
		return ask(ctx, path)
	}
	if e := recall(s.cache, path); e != nil {
		return e, nil
	}
	e, err := ask(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := e.remember(s.cache); err != nil {
		log.G(ctx).WithError(err).Warn("remember the version of the engine")
	}
	return e, nil
}

// ask runs engine --version. An engine that answers with something else is
// taken as it is: it may be a wrapper around another one.
func ask(ctx context.Context, path string) (*engine, error) {
	out, status, err := output(ctx, path, "--version")
	if err != nil {
		return nil, err
	}
	e := &engine{path: path}
	if status == 0 {
		e.parse(string(out))
	}
	log.G(ctx).WithField("path", path).WithField("name", e.name).WithField("version", e.version).
		WithField("exit", status).Debug("asked the engine for its version")
	return e, nil
}

// parse reads lines such as
//
//	crun version 1.8.1
//	+SYSTEMD +SELINUX
func (e *engine) parse(out string) {
	for i, line := range strings.Split(out, "\n") {
		words := strings.Fields(line)
		if i == 0 && len(words) >= 3 && words[1] == "version" {
			if v, ok := parseVersion(words[2]); ok {
				e.name, e.version = words[0], v
			}
		}
		if strings.HasPrefix(line, "+") {
			e.parts = words
		}
	}
}

// output runs a command and returns what it writes to stdout.
func output(ctx context.Context, path string, args ...string) ([]byte, int, error) {
	return capture(ctx, &exec.Cmd{Path: path, Args: append([]string{path}, args...)}, func(cmd *exec.Cmd, w *os.File) { cmd.Stdout = w })
}

// capture runs a command and returns what it writes to where connect puts the
// pipe.
func capture(ctx context.Context, cmd *exec.Cmd, connect func(*exec.Cmd, *os.File)) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	connect(cmd, w)
	c, err := child.Start(cmd)
	w.Close()
	if err != nil {
		return nil, 0, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	defer cmd.Process.Release() //nolint:errcheck // the reaper has the process
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Kill()
		_ = r.SetReadDeadline(time.Unix(1, 0)) // its children may hold the pipe
	})
	defer stop()
	var out bytes.Buffer
	if _, err := io.Copy(&out, r); err != nil {
		return nil, 0, fmt.Errorf("read from %s: %w", cmd.Path, err)
	}
	exit, err := c.Wait(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return out.Bytes(), exit.Status, nil
}

func (e *engine) isCrun() bool { return e.name == "crun" }

// specLimit is the newest runtime-spec that an old crun takes: up to 1.14.2 it
// looks for "1.0" in ociVersion, and at some time began to look for "1.1.0"
// as well (1.8.1 does).
func (e *engine) specLimit() (limit string, limited bool) {
	switch {
	case !e.isCrun() || !e.version.less(version{1, 14, 3}):
		return "", false
	case e.version.less(version{1, 8, 1}):
		return "1.0.2", true
	}
	return "1.1.0", true
}

// forgetsPoststop tells whether the engine leaves the poststop hooks out when
// create fails after other hooks have run. The runtime-spec wants them
// (runtime.md, "Lifecycle"), and runc runs them.
func (e *engine) forgetsPoststop() bool { return e.isCrun() }

// prepare makes a bundle acceptable for the engine, or says why the engine
// can not work here. cgroupRoot is where the host's cgroups are.
func (e *engine) prepare(b *bundle, cgroupRoot string) error {
	if e.isCrun() {
		if err := checkCgroups(cgroupRoot); err != nil {
			return fmt.Errorf("%s: %w", e.path, err)
		}
	}
	limit, limited := e.specLimit()
	if !limited {
		return nil
	}
	most, _ := parseVersion(limit)
	if v, ok := parseVersion(b.config.Version); ok && most.less(v) {
		return b.setVersion(limit)
	}
	return nil
}
