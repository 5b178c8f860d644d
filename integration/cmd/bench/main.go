// Command bench measures the nexcage shim against containerd's runc shim with
// crun, side by side in one run, and prints a table. Times are milliseconds,
// each the median of many samples with the smallest and the largest; samples
// of the runtimes alternate. A ratio below 1 is better than the runc shim.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/harness"
)

func main() { os.Exit(harness.Enter(run)) }

func run() int {
	n := flag.Int("n", 20, "samples of each measurement")
	only := flag.String("only", "", "run only the parts with these `names`: ctr,calls,events,memory,many,throughput,proxmox")
	flag.Parse()
	b := &bench{n: *n}
	if err := b.run(context.Background(), *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// bench is one run of all measurements.
type bench struct {
	n        int
	world    *harness.World
	runtimes []harness.Runtime // the reference first
	serial   int
	rows     []row
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	b.world, err = harness.NewWorld(ctx, harness.Versions[0], harness.Dir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	b.runtimes = []harness.Runtime{harness.Reference(), harness.LXC(), harness.Crun()}
	for i := range b.runtimes {
		b.runtimes[i].SpecVersion = "1.1.0" // the newest that every crun takes
	}
	if err := b.header(); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"ctr", b.ctr}, {"calls", b.calls}, {"events", b.events}, {"memory", b.memory}, {"many", b.many}, {"throughput", b.throughput},
		{"proxmox", b.proxmox}, // the last: it makes the machine a node
	} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", part.name)
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.print()
	return nil
}

func (b *bench) header() error {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	crun, err := exec.Command("crun", "--version").Output()
	if err != nil {
		return err
	}
	lxc, err := exec.Command("lxc-start", "--version").Output()
	if err != nil {
		return err
	}
	engine, _, _ := strings.Cut(string(crun), "\n")
	fmt.Printf("containerd %s, %s, LXC %s, Linux %s, load before %s; %d samples each\n", b.world.Version.Name, engine,
		strings.TrimSpace(string(lxc)), strings.TrimSpace(string(kernel)), strings.Join(strings.Fields(string(load))[:3], " "), b.n)
	return nil
}

// id is a new container id.
func (b *bench) id(rt harness.Runtime) string {
	b.serial++
	return fmt.Sprintf("%s-%s-%d", harness.Token(), rt.Name, b.serial)
}

// each calls f n times for every runtime, in an order that changes.
func (b *bench) each(f func(rt harness.Runtime) error) error {
	order := append([]harness.Runtime(nil), b.runtimes...)
	for i := range b.n {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, rt := range order {
			if err := f(rt); err != nil {
				return fmt.Errorf("%s, sample %d: %w", rt.Name, i, err)
			}
		}
	}
	return nil
}

// ctr measures `ctr run --rm … true` from end to end, as a user waits for it.
func (b *bench) ctr(ctx context.Context) error {
	v, err := harness.FindVersion("1.6") // its ctr writes specs that every crun takes
	if err != nil {
		return err
	}
	old := *b.world
	old.Version = v
	flags, err := ctrFlags()
	if err != nil {
		return err
	}
	s := b.series("ctr run --rm … true", target{lxc: atMost(1), crun: atMost(1)})
	return b.each(func(rt harness.Runtime) error {
		args := append([]string{"run", "--rm", "--runtime", rt.Type}, flags[rt.Name]...)
		cmd := old.Ctr(ctx, append(args, harness.Image, b.id(rt), "true")...)
		return s.time(rt, func() error {
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	})
}

// ctrFlags are the flags that choose the runtimes' backends.
func ctrFlags() (map[string][]string, error) {
	flags := map[string][]string{"runc-shim": {"--runc-binary", "crun"}}
	for _, backend := range []string{"lxc", "crun"} {
		path := filepath.Join("/etc/nexcage", backend+".toml") // the session's own /etc
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, "[routing]\ndefault_backend = %q\n", backend), 0o644); err != nil {
			return nil, err
		}
		flags[backend] = []string{"--runtime-config-path", path}
	}
	return flags, nil
}
