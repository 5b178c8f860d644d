// Command vm runs commands in a virtual machine that is like the users' hosts.
// See docs/development.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/vm"
)

const usage = `vm image [DISTRIBUTION…]          make the images of trixie, bookworm
vm up    [-for 1h] [-name N]      boot a guest, which serves the following until it is interrupted
vm run   [-name N] COMMAND…       run a command in it; without -name, and if none is up, in one that is booted for it
vm shell [-name N]                a shell on a terminal in it
vm put   [-name N] FILE… TO       copy files into it; TO is a directory if there are several, or it ends with /
vm get   [-name N] FILE           print a file of it
vm test  [-short] [PATTERN]       run the integration tests in guests of their own, and print a table

`

// settings are the flags of all verbs.
type settings struct {
	name, distribution, bin string
	host                    string
	memory, cpus            int
	timeout                 time.Duration
	short                   bool
	given                   map[string]bool // which of them were
	env                     list
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	code, err := command(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 125
	}
	os.Exit(code)
}

func command(ctx context.Context, argv []string) (int, error) {
	if len(argv) == 0 {
		argv = []string{"help"}
	}
	verbs := map[string]func(context.Context, settings, []string) (int, error){
		"image": images, "up": up, "run": run, "shell": shell, "put": put, "get": get, "test": test,
		"agent": func(context.Context, settings, []string) (int, error) { return 1, vm.Agent() },
	}
	var s settings
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.StringVar(&s.distribution, "distribution", vm.Distributions[0], strings.Join(vm.Distributions, " or "))
	f.StringVar(&s.name, "name", "", "of the guest (default: its distribution's)")
	f.StringVar(&s.bin, "bin", os.Getenv("NEXCAGE_BIN"), "directory of the build; the guest finds its files in "+vm.Share+" (default: $NEXCAGE_BIN)")
	f.IntVar(&s.memory, "memory", 2048, "of the guest, in MiB")
	f.IntVar(&s.cpus, "cpus", 2, "of the guest")
	f.DurationVar(&s.timeout, "for", 10*time.Minute, "run: the command's time; up: the guest's")
	f.Var(&s.env, "env", "NAME=VALUE for the command; may be repeated")
	f.StringVar(&s.host, "host", "", "test: pve, for the suites on a Proxmox node alone; empty, for the others")
	f.BoolVar(&s.short, "short", false, "test: the life-cycle table of each host in one distribution")
	f.Usage = func() { fmt.Fprint(f.Output(), usage); f.PrintDefaults() }
	verb, ok := verbs[argv[0]]
	if !ok {
		f.Usage()
		return 2, nil
	}
	if err := f.Parse(argv[1:]); err != nil {
		return 2, nil // has been said
	}
	s.given = map[string]bool{}
	f.Visit(func(f *flag.Flag) { s.given[f.Name] = true })
	if s.name == "" {
		s.name = s.distribution
	}
	if s.bin == "" {
		s.bin = filepath.Dir(executable())
	}
	return verb(ctx, s, f.Args())
}

func executable() string {
	exe, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return exe
}

func images(ctx context.Context, s settings, names []string) (int, error) {
	if len(names) == 0 {
		names = vm.Distributions
	}
	for _, name := range names {
		img, err := vm.MakeImage(ctx, vm.Cache(s.bin), name, os.Stderr)
		if err != nil {
			return 1, err
		}
		fmt.Println(img.Root)
	}
	return 0, nil
}

// boot boots a guest with the build on its second disk.
func boot(ctx context.Context, s settings) (_ *vm.Machine, err error) {
	img, err := vm.MakeImage(ctx, vm.Cache(s.bin), s.distribution, os.Stderr)
	if err != nil {
		return nil, err
	}
	share, err := stage(s.bin, s.distribution)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(share)) }() // is on the disk
	return vm.Boot(ctx, img, vm.Options{CPUs: s.cpus, MemoryMB: s.memory, Share: share})
}

func up(ctx context.Context, s settings, _ []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	begin := time.Now()
	m, err := boot(ctx, s)
	if err != nil {
		return 1, err
	}
	fmt.Printf("%s answers after %s\n", s.name, time.Since(begin).Round(time.Second))
	err = m.Serve(ctx, vm.Socket(vm.Cache(s.bin), s.name))
	return 0, errors.Join(err, m.Close())
}

// with calls f with the guest of that name, or with one that is booted for it.
func with(ctx context.Context, s settings, f func(*vm.Client) (int, error)) (int, error) {
	c := vm.Dial(vm.Socket(vm.Cache(s.bin), s.name))
	err := c.Ping(ctx)
	if err == nil {
		return f(c)
	}
	if s.given["name"] {
		return 1, fmt.Errorf("guest %s: %w", s.name, err)
	}
	m, err := boot(ctx, s)
	if err != nil {
		return 1, err
	}
	code, err := f(m.Client)
	return code, errors.Join(err, m.Close())
}

func run(ctx context.Context, s settings, argv []string) (int, error) {
	if len(argv) == 0 {
		return 2, errors.New("run what?")
	}
	return with(ctx, s, func(c *vm.Client) (int, error) {
		return c.Run(ctx, vm.Command{Args: argv, Env: s.env, Timeout: s.timeout, Stdin: stdin(), Stdout: os.Stdout, Stderr: os.Stderr})
	})
}

// stdin is nothing if it is a terminal: the command might wait for its end.
func stdin() io.Reader {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		return nil
	}
	return os.Stdin
}

// shell runs a shell on a terminal of the guest; ours only passes bytes on
// meanwhile.
func shell(ctx context.Context, s settings, _ []string) (int, error) {
	if stdin() != nil {
		return 2, errors.New("shell: standard input is no terminal; use run")
	}
	return with(ctx, s, func(c *vm.Client) (int, error) {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			return 1, err
		}
		if err := stty("raw", "-echo"); err != nil {
			return 1, err
		}
		script := fmt.Sprintf("stty rows %d cols %d; exec bash -l", size.Row, size.Col)
		code, err := c.Run(ctx, vm.Command{
			Args: []string{"script", "-qefc", script, "/dev/null"}, Env: []string{"TERM=" + os.Getenv("TERM"), "PATH=" + guestPath},
			Dir: "/root", Timeout: 24 * time.Hour, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		})
		return code, errors.Join(err, stty("sane"))
	})
}

const guestPath = vm.Share + ":" + vm.Share + "/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func stty(args ...string) error {
	cmd := exec.Command("stty", args...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	return cmd.Run()
}

func put(ctx context.Context, s settings, names []string) (int, error) {
	if len(names) < 2 {
		return 2, errors.New("put what, and where?")
	}
	from, to := names[:len(names)-1], names[len(names)-1]
	c := vm.Dial(vm.Socket(vm.Cache(s.bin), s.name))
	for _, name := range from {
		path := to
		if len(from) > 1 || strings.HasSuffix(to, "/") {
			path = filepath.Join(to, filepath.Base(name))
		}
		if err := putFile(ctx, c, name, path); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

func putFile(ctx context.Context, c *vm.Client, name, path string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.Put(ctx, path, uint32(info.Mode().Perm()), f)
}

func get(ctx context.Context, s settings, names []string) (int, error) {
	if len(names) != 1 {
		return 2, errors.New("get one file")
	}
	r, err := vm.Dial(vm.Socket(vm.Cache(s.bin), s.name)).Get(ctx, names[0])
	if err != nil {
		return 1, err
	}
	defer r.Close()
	_, err = io.Copy(os.Stdout, r)
	return 0, err
}
