// Command demo shows a real containerd running a real OCI image with the
// nexcage shim, on LXC, through crun, and as a CT of a Proxmox node (the tests'
// stand-in for one): commands, output, exit
// codes, events, processes; and that nothing is left behind.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

const runtimeName = "io.containerd.nexcage.v2"

func main() { os.Exit(harness.Enter(run)) }

func run() int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := show(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

func show(ctx context.Context) (err error) {
	w, err := harness.NewWorld(ctx, harness.Versions[0], harness.Dir())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if log, readErr := os.ReadFile(w.LogFile()); readErr == nil {
				fmt.Fprintf(os.Stderr, "containerd's log:\n%s", log)
			}
		}
		err = errors.Join(err, w.Close())
	}()
	if err := configure(); err != nil {
		return err
	}
	before, err := harness.Take(w)
	if err != nil {
		return err
	}
	d := &demo{world: w}
	d.say("A private containerd %s, and the image %s.", w.Version.Name, harness.Image)
	for _, b := range []backend{
		{name: "lxc", title: "A container on LXC: the default"},
		{name: "crun", title: "A container through crun", flags: []string{"--runtime-config-path", crunConfig}},
	} {
		if err := d.backend(ctx, b); err != nil {
			return err
		}
	}
	if err := nothingLeft(w, before); err != nil {
		return err
	}
	if err := proxmox(ctx); err != nil {
		return err
	}
	d.heading("Processes, mounts, cgroups, network namespaces, sockets and files: compared with those before")
	fmt.Println("nothing left behind")
	return nil
}

func nothingLeft(w *harness.World, before harness.Snapshot) error {
	left, err := harness.Left(w, before)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	return nil
}

const crunConfig = "/etc/nexcage/crun.toml"

// configure writes a second configuration; /etc is the session's own.
func configure() error {
	if err := os.MkdirAll(filepath.Dir(crunConfig), 0o755); err != nil {
		return err
	}
	return os.WriteFile(crunConfig, []byte("[routing]\ndefault_backend = \"crun\"\n"), 0o644)
}

type backend struct {
	name  string
	title string
	flags []string // of ctr run
}

// demo prints.
type demo struct{ world *harness.World }

func (d *demo) heading(text string) { fmt.Printf("\n=== %s\n", text) }

func (d *demo) say(format string, args ...any) { fmt.Printf("# "+format+"\n", args...) }

func (d *demo) backend(ctx context.Context, b backend) error {
	d.heading(b.title)
	events, err := d.watch(ctx)
	if err != nil {
		return err
	}
	short, long := harness.Token()+"-short-"+b.name, harness.Token()+"-long-"+b.name
	if err := d.short(ctx, b, short); err != nil {
		return err
	}
	if err := d.long(ctx, b, long); err != nil {
		return err
	}
	fmt.Println("# its events, from `ctr events`:")
	for _, id := range []string{short, long} {
		lines, err := events.until(ctx, id, "/tasks/delete")
		if err != nil {
			return err
		}
		for _, l := range lines {
			fmt.Println(l)
		}
	}
	return events.stop()
}

// short is a container that prints something and ends.
func (d *demo) short(ctx context.Context, b backend, id string) error {
	args := append([]string{"run", "--rm", "--runtime", runtimeName}, b.flags...)
	args = append(args, harness.Image, id, "sh", "-c", "echo hello from $(busybox | head -n 1), process $$; echo to stderr >&2; exit 7")
	return d.expect(ctx, 7, d.world.Ctr(ctx, args...))
}

// long is a container that one looks at from outside and from inside.
func (d *demo) long(ctx context.Context, b backend, id string) error {
	args := append([]string{"run", "--detach", "--runtime", runtimeName}, b.flags...)
	args = append(args, harness.Image, id, "sleep", "1000")
	state := filepath.Join("/run/nexcage", d.world.Namespace, id, "state.json")
	steps := []*exec.Cmd{d.world.Ctr(ctx, args...), d.world.Ctr(ctx, "task", "ls"), exec.CommandContext(ctx, "grep", "-E", `^  "(status|pid|backend|reason|host)":`, state)}
	if b.name == "lxc" {
		steps = append(steps, exec.CommandContext(ctx, "lxc-info", "-P", "/run/nexcage/.lxc/"+d.world.Namespace, "-n", id, "-s", "-p"))
	}
	for _, cmd := range steps {
		if err := d.expect(ctx, 0, cmd); err != nil {
			return err
		}
	}
	pid, err := d.pid(ctx, id)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		code int
		cmd  *exec.Cmd
	}{
		{0, exec.CommandContext(ctx, "ps", "-o", "pid,ppid,user,args", "-p", pid)},
		{3, d.world.Ctr(ctx, "task", "exec", "--exec-id", "look", id, "sh", "-c", "echo inside as $(id -un); ps; exit 3")},
		{0, d.world.Ctr(ctx, "task", "kill", "--signal", "SIGKILL", id)},
		{0, d.world.Ctr(ctx, "task", "rm", id)},
		{0, d.world.Ctr(ctx, "container", "rm", id)},
	} {
		if err := d.expect(ctx, step.code, step.cmd); err != nil {
			return err
		}
	}
	return nil
}

// pid is the host's process id of the container's first process.
func (d *demo) pid(ctx context.Context, id string) (string, error) {
	out, err := d.world.Ctr(ctx, "task", "ls").Output()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == id {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("ctr task ls does not show %s", id)
}

// expect prints a command, its output and its exit code, which must be code.
func (d *demo) expect(ctx context.Context, code int, cmd *exec.Cmd) error {
	fmt.Println("$ " + quoted(cmd))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	got := cmd.ProcessState.ExitCode()
	fmt.Printf("# exit code %d\n", got)
	if got != code {
		return fmt.Errorf("%s: exit code %d, not %d", quoted(cmd), got, code)
	}
	return ctx.Err()
}

func quoted(cmd *exec.Cmd) string {
	words := []string{filepath.Base(cmd.Path)}
	for _, a := range cmd.Args[1:] {
		if strings.ContainsAny(a, " $;&>(|") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// events is a running `ctr events`.
type events struct {
	cmd   *exec.Cmd
	out   io.Closer
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

// watch starts `ctr events`. It tells that it listens by nothing: so the
// publication of an event of our own is awaited.
func (d *demo) watch(ctx context.Context) (*events, error) {
	e := &events{cmd: d.world.Ctr(ctx, "events"), more: make(chan struct{}, 1)}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e.out = out
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go e.read(out)
	for i := 0; ; i++ {
		image := fmt.Sprintf("docker.io/nexcage/ready:%d", i)
		for _, args := range [][]string{{"image", "tag", "--force", harness.Image, image}, {"image", "rm", image}} {
			if out, err := d.world.Ctr(ctx, args...).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("ctr %v: %w: %s", args, err, out)
			}
		}
		if _, err := e.await(100*time.Millisecond, "docker.io/nexcage/ready", "/images/delete"); err == nil {
			return e, nil
		} else if ctx.Err() != nil {
			return nil, err
		}
	}
}

func (e *events) read(out io.Reader) {
	for s := bufio.NewScanner(out); s.Scan(); {
		e.mu.Lock()
		e.lines = append(e.lines, s.Text())
		e.mu.Unlock()
		select {
		case e.more <- struct{}{}:
		default:
		}
	}
}

func (e *events) until(ctx context.Context, id, topic string) ([]string, error) {
	limit := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	return e.await(limit, id, topic)
}

// await waits for an event with that topic and text, and returns the task
// events that have the text.
func (e *events) await(limit time.Duration, text, topic string) ([]string, error) {
	timeout := time.After(limit)
	for {
		e.mu.Lock()
		var found []string
		complete := false
		for _, l := range e.lines {
			if !strings.Contains(l, text) {
				continue
			}
			if strings.Contains(l, " /tasks/") {
				found = append(found, brief(l))
			}
			complete = complete || strings.Contains(l, " "+topic+" ")
		}
		e.mu.Unlock()
		if complete {
			return found, nil
		}
		select {
		case <-e.more:
		case <-timeout:
			return found, fmt.Errorf("no event %s of %s", topic, text)
		}
	}
}

// brief is a line of `ctr events` without its time, and cut where it is long.
func brief(line string) string {
	if at := strings.Index(line, " /tasks/"); at >= 0 {
		line = line[at+1:]
	}
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return line
}

func (e *events) stop() error {
	if err := e.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = e.cmd.Wait() // killed, as just asked
	return nil
}
