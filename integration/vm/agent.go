package vm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Agent serves in the guest, on the virtio-serial port, until it fails.
func Agent() error {
	port, err := openPort("/sys/class/virtio-ports", "/dev")
	if err != nil {
		return err
	}
	a := &agent{}
	return serve(&oneConn{conn: portConn{port}, closed: make(chan struct{})}, a.handler())
}

// openPort finds the port by its name: only udev's rules make a link to it.
func openPort(class, dev string) (*os.File, error) {
	ports, err := filepath.Glob(filepath.Join(class, "*"))
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		name, err := os.ReadFile(filepath.Join(p, "name"))
		if err == nil && string(name) == portName+"\n" {
			return os.OpenFile(filepath.Join(dev, filepath.Base(p)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port is called %s", portName)
}

// serve answers requests over plain HTTP/2.
func serve(l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, Protocols: plainHTTP2()}
	return s.Serve(l)
}

// portConn is the port as a connection.
type portConn struct{ *os.File }

func (portConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: portName} }
func (portConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: portName} }

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	once   sync.Once // for conn
	end    sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (c net.Conn, err error) {
	l.once.Do(func() { c = l.conn })
	if c == nil {
		<-l.closed
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneConn) Close() error   { l.end.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

type agent struct{ runs atomic.Int64 }

func (a *agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/run", a.run)
	mux.HandleFunc("/put", put)
	mux.HandleFunc("/get", get)
	return mux
}

func (a *agent) run(w http.ResponseWriter, r *http.Request) {
	var c Command
	if err := json.Unmarshal([]byte(r.FormValue("command")), &c); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Minute
	}
	f := &frames{w: w}
	f.flush()
	code, err := a.service(r.Context(), c, r.Body, f)
	if err != nil {
		f.write(frameError, []byte(err.Error()))
		return
	}
	f.write(frameExit, []byte(strconv.Itoa(code)))
}

// service runs the command as a unit of systemd, as the users' containerd is
// one: with a delegated control group, in which all that it started is ended
// with it.
func (a *agent) service(ctx context.Context, c Command, stdin io.Reader, f *frames) (int, error) {
	unit := fmt.Sprintf("nexcage-run-%d.service", a.runs.Add(1))
	argv := []string{
		"--quiet", "--collect", "--wait", "--pipe", "--unit=" + unit, "--working-directory=" + workDir(c.Dir),
		"--property=Delegate=yes", "--property=LimitNOFILE=infinity", "--property=LimitCORE=0", "--property=TasksMax=infinity",
		"--setenv=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--setenv=HOME=/root", "--setenv=NEXCAGE_GUEST=1",
	}
	for _, e := range c.Env {
		argv = append(argv, "--setenv="+e)
	}
	argv = append(argv, "--")
	for _, a := range c.Args {
		argv = append(argv, strings.ReplaceAll(a, "$", "$$")) // systemd expands variables
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, errTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-run", argv...)
	cmd.Cancel = func() error { return exec.Command("systemctl", "kill", "--signal=KILL", unit).Run() }
	cmd.WaitDelay = 20 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = f.to(frameStdout), f.to(frameStderr)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		_, _ = io.Copy(in, stdin) // ends with the request, or with the command
		_ = in.Close()
	}()
	err = cmd.Wait()
	if context.Cause(ctx) == errTimeout {
		f.write(frameStderr, fmt.Appendf(nil, "\n%q ran for longer than %s\n", c.Args, c.Timeout))
		return 124, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

var errTimeout = errors.New("timeout")

func workDir(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// frames writes the frames of a response.
type frames struct {
	mu sync.Mutex
	w  http.ResponseWriter
}

func (f *frames) write(kind byte, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The error of a client that has gone ends the command by its context.
	_, _ = f.w.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data))), data...))
	f.flush()
}

func (f *frames) flush() { _ = http.NewResponseController(f.w).Flush() }

type frameWriter struct {
	*frames
	kind byte
}

func (f *frames) to(kind byte) io.Writer { return frameWriter{f, kind} }

func (w frameWriter) Write(p []byte) (int, error) {
	w.frames.write(w.kind, p)
	return len(p), nil
}

// put writes a file, and replaces one that may be running.
func put(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	if err == nil {
		err = replace(path, os.FileMode(mode), r.Body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func replace(path string, mode os.FileMode, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".put-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // renamed, if all went well
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func get(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(r.URL.Query().Get("path"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	_, _ = io.Copy(w, f) // the client sees a response that breaks off
}
