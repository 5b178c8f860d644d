package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/vm"
)

// suite is a run of the compiled tests in a guest of its own.
type suite struct {
	distribution string
	host         string // of rows that do not name a runtime
	containerd   string // of rows that do not name a version
	pattern      string // of -test.run
	skip         string // of -test.skip
	timeout      time.Duration
}

// pve is the host of a suite whose guest is a node: systemd starts its CTs.
const pve = "pve"

// What a guest would only repeat, at its pace: the life-cycle table of the
// reference, and what depends on no kernel, LXC or cgroup version; in bookworm,
// whose crun hosts have, the runtime-spec with crun and the comparisons too.
const (
	elsewhere = "/^runc-shim$|^TestCancelledCreate|^TestStubbornLogger$|^TestHostile|^TestLog"
	onVolumes = "^TestLifecycleOnVolumes$|^TestCtrOnVolumes$|^TestPctFailsWhileItMakesAVolume$" // as on snapshots
	flags     = "|^TestCtrOnProxmox$/^run$"                                                     // ctr of 1.6 lacks some
	inTrixie  = "|^TestSpec/^crun$|^TestCtrRunLooksTheSame$|^TestContainersOfClientsLookTheSame$"
)

// few are scenarios of the life-cycle table that are about control groups,
// signals and processes: crun's way there is containerd's own.
const few = "^(exit-7|exec|kill-all|pause-and-resume|update|stats|out-of-memory)$"

// What is run. Proxmox VE 8 is bookworm with containerd 1.6, 9 is trixie with 1.7.
var (
	fullSuites = []suite{
		{distribution: "trixie", pattern: ".", skip: elsewhere, timeout: 45 * time.Minute},
		{distribution: "trixie", host: pve, containerd: "1.7", pattern: ".", skip: onVolumes, timeout: 45 * time.Minute},
		{distribution: "trixie", host: pve, containerd: "2.4", pattern: "^TestLifecycleOnProxmox$", timeout: 15 * time.Minute},
		{distribution: "bookworm", pattern: ".", skip: elsewhere + inTrixie, timeout: 45 * time.Minute},
		{distribution: "bookworm", host: pve, containerd: "1.6", pattern: ".", skip: onVolumes + flags, timeout: 45 * time.Minute},
		{distribution: "bookworm", host: pve, containerd: "2.4", pattern: "^TestLifecycleOnProxmox$", timeout: 15 * time.Minute},
	}
	shortSuites = []suite{
		{distribution: "trixie", pattern: "^TestLifecycle$/^lxc$/^2.4$|^TestLifecycle$/^crun$/^2.4$/" + few, timeout: 15 * time.Minute},
		{distribution: "trixie", host: pve, containerd: "1.7", pattern: "^TestLifecycleOnProxmox$|^TestSystemdRuns|^TestPackage$", timeout: 25 * time.Minute},
	}
)

// suites selects by -short, -distribution, -host and a pattern.
func suites(s settings, args []string) []suite {
	all := fullSuites
	if s.short {
		all = shortSuites
	}
	var chosen []suite
	for _, one := range all {
		if s.given["distribution"] && one.distribution != s.distribution || s.given["host"] && one.host != s.host {
			continue
		}
		if len(args) > 0 {
			one.pattern = args[0]
		}
		if s.given["for"] {
			one.timeout = s.timeout
		}
		chosen = append(chosen, one)
	}
	return chosen
}

// command is the run of the tests.
func (one suite) command(env []string) vm.Command {
	argv := []string{vm.Share + "/integration.test", "-test.v=test2json", "-test.count=1", "-test.timeout=0", "-test.run=" + one.pattern}
	if one.skip != "" {
		argv = append(argv, "-test.skip="+one.skip)
	}
	env = append([]string{"NEXCAGE_BIN=" + vm.Share}, env...)
	if one.host == pve {
		env = append(env, "NEXCAGE_SESSION=guest", "NEXCAGE_TEST_NODE="+proxmoxOf[one.distribution]+"/"+one.containerd)
	}
	return vm.Command{Args: argv, Env: env, Dir: vm.Share + "/" + workDir, Timeout: one.timeout}
}

// proxmoxOf is the version of Proxmox VE that is a distribution underneath.
var proxmoxOf = map[string]string{"trixie": "9.1", "bookworm": "8.4"}

func (one suite) name() string {
	return strings.Trim(one.distribution+"-"+one.host+"-"+one.containerd, "-")
}

// test runs the suites, prints their table, and fails if one failed.
func test(ctx context.Context, s settings, args []string) (int, error) {
	if len(args) > 1 {
		return 2, errors.New("test: one pattern, as of -test.run")
	}
	chosen := suites(s, args)
	if len(chosen) == 0 {
		return 2, errors.New("test: there is no such suite")
	}
	var all table
	var states []string
	for _, one := range chosen {
		s.distribution = one.distribution
		t := table{suite: one}
		state, err := t.run(ctx, s)
		if err != nil {
			return 1, fmt.Errorf("%s: %w", one.name(), err)
		}
		if !slices.Contains(states, state) {
			states = append(states, state)
		}
		all.add(t)
	}
	fmt.Println(strings.Join(states, "\n"))
	all.print(os.Stdout)
	if len(all.failures) > 0 {
		return 1, nil
	}
	return 0, nil
}

// run boots a guest and runs the tests in it; what they print goes to a file.
func (t *table) run(ctx context.Context, s settings) (state string, err error) {
	m, err := boot(ctx, s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if state, err = describe(ctx, m.Client, t.suite.distribution); err != nil {
		return "", err
	}
	fmt.Println(state)
	log, err := os.Create(filepath.Join(s.bin, "test-vm-"+t.suite.name()+".log"))
	if err != nil {
		return state, err
	}
	defer log.Close()
	r, w := io.Pipe()
	parsed := make(chan struct{})
	go func() {
		defer close(parsed)
		t.read(io.TeeReader(r, log))
	}()
	cmd := t.suite.command(s.env)
	cmd.Stdout, cmd.Stderr = w, w
	begin := time.Now()
	code, err := m.Run(ctx, cmd)
	if err != nil { // a kernel that panics says why there
		err = fmt.Errorf("%w; the end of its console:\n%s", err, tail(m.Console(), 60))
	}
	err = errors.Join(err, w.Close())
	<-parsed
	t.end(code)
	fmt.Printf("%s: exit code %d after %s; the whole output is in %s\n", t.suite.name(), code, time.Since(begin).Round(time.Second), log.Name())
	return state, err
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// describe is what of the guest makes it what it is.
func describe(ctx context.Context, c *vm.Client, distribution string) (string, error) {
	var out strings.Builder
	code, err := c.Run(ctx, vm.Command{Args: []string{"sh", "-c", describeScript}, Stdout: &out, Stderr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("describe the guest: exit code %d: %s", code, out.String())
	}
	return distribution + ": " + strings.Join(strings.Split(strings.TrimSpace(out.String()), "\n"), "; "), err
}

const describeScript = `set -e
echo "Linux $(uname -r), $(nproc) CPUs"
echo "LXC $(lxc-start --version)"
crun --version | head -1
echo "containerd $(containerd --version | cut -d' ' -f3)"
systemctl --version | head -1 | cut -d' ' -f1,2
echo "cgroup $(stat -fc %T /sys/fs/cgroup) ($(cat /sys/fs/cgroup/cgroup.controllers))"
echo "AppArmor $(cat /sys/module/apparmor/parameters/enabled), $(grep -c '(enforce)' /sys/kernel/security/apparmor/profiles) profiles enforced"
echo "state: $(systemctl is-system-running || true)"`
