package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cageforge/containerd-shim-nexcage/integration/vm"
)

// suite is a run of the compiled tests in a guest.
type suite struct {
	distribution string
	pattern      string // of -test.run
	timeout      time.Duration
}

// What is run. A guest is 10 to 30 times slower than its host.
var (
	fullSuites = []suite{
		{"trixie", ".", 90 * time.Minute},
		{"bookworm", ".", 90 * time.Minute},
	}
	shortSuites = []suite{{"trixie", "^TestLifecycle$/^lxc$/2.4", 10 * time.Minute}}
)

// suites selects by -short, -distribution and a pattern.
func suites(s settings, args []string) []suite {
	all := fullSuites
	if s.short {
		all = shortSuites
	}
	var chosen []suite
	for _, one := range all {
		if s.given["distribution"] && one.distribution != s.distribution {
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

// test runs the suites, prints their table, and fails if one failed.
func test(ctx context.Context, s settings, args []string) (int, error) {
	if len(args) > 1 {
		return 2, errors.New("test: one pattern, as of -test.run")
	}
	chosen := suites(s, args)
	if len(chosen) == 0 {
		return 2, fmt.Errorf("test: no suite for %s", s.distribution)
	}
	var t table
	var states []string
	failed := false
	for _, one := range chosen {
		s.distribution = one.distribution
		state, ok, err := t.suite(ctx, s, one)
		if err != nil {
			return 1, fmt.Errorf("%s: %w", one.distribution, err)
		}
		states = append(states, state)
		failed = failed || !ok
	}
	fmt.Println(strings.Join(states, "\n"))
	t.print(os.Stdout)
	if failed || t.failed() {
		return 1, nil
	}
	return 0, nil
}

// suite boots a guest and runs the tests in it; what they print goes to a file.
func (t *table) suite(ctx context.Context, s settings, one suite) (state string, ok bool, err error) {
	m, err := boot(ctx, s)
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if state, err = describe(ctx, m.Client, one.distribution); err != nil {
		return "", false, err
	}
	fmt.Println(state)
	log, err := os.Create(filepath.Join(s.bin, "test-vm-"+one.distribution+".log"))
	if err != nil {
		return state, false, err
	}
	defer log.Close()
	r, w := io.Pipe()
	parsed := make(chan struct{})
	go func() {
		defer close(parsed)
		t.read(io.TeeReader(r, log), one.distribution)
	}()
	code, err := m.Run(ctx, vm.Command{
		Args: []string{vm.Share + "/integration.test", "-test.v=test2json", "-test.count=1", "-test.timeout=0", "-test.run=" + one.pattern},
		Env:  append([]string{"NEXCAGE_BIN=" + vm.Share}, s.env...), Dir: "/", Timeout: one.timeout, Stdout: w, Stderr: w,
	})
	err = errors.Join(err, w.Close())
	<-parsed
	fmt.Printf("%s: exit code %d; the whole output is in %s\n", one.distribution, code, log.Name())
	return state, code == 0, err
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
echo "Linux $(uname -r)"
echo "LXC $(lxc-start --version)"
crun --version | head -1
echo "containerd $(containerd --version | cut -d' ' -f3)"
systemctl --version | head -1 | cut -d' ' -f1,2
echo "cgroup $(stat -fc %T /sys/fs/cgroup) ($(cat /sys/fs/cgroup/cgroup.controllers))"
echo "AppArmor $(cat /sys/module/apparmor/parameters/enabled), $(grep -c '(enforce)' /sys/kernel/security/apparmor/profiles) profiles enforced"
echo "state: $(systemctl is-system-running || true)"`

// row counts the results of one line of the table.
type row struct {
	distribution, containerd, host, test string

	passed, failed, skipped int
	seconds                 float64
}

type table struct {
	rows     []*row
	failures []string
	last     string // the test that ended before
}

// read takes the results from the output of the tests, as it comes: in the
// form for test2json a marker stands before each.
func (t *table) read(r io.Reader, distribution string) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		var result, name string
		var seconds float64
		line = strings.TrimSpace(strings.Trim(line, "\x16\n"))
		if n, _ := fmt.Sscanf(line, "--- %4s: %s (%fs)", &result, &name, &seconds); n == 3 {
			t.add(distribution, result, name, seconds)
			fmt.Printf("%s %s %s %.1fs\n", distribution, result, name, seconds)
		}
		if err != nil {
			return
		}
	}
}

// add counts a test that has no parts, and every failure.
func (t *table) add(distribution, result, name string, seconds float64) {
	if result == "FAIL" {
		t.failures = append(t.failures, distribution+" "+name)
	}
	if strings.HasPrefix(t.last, name+"/") {
		return // its parts have been counted
	}
	t.last = name
	r := t.row(distribution, name)
	r.seconds += seconds
	switch result {
	case "PASS":
		r.passed++
	case "SKIP":
		r.skipped++
	default:
		r.failed++
	}
}

// hosts are what the runtimes of the tests stand for.
var hosts = map[string]string{"lxc": "native", "pve": "pve", "crun": "crun", "runc-shim": "reference"}

// row finds the row of a test, which is named Test/RUNTIME/CONTAINERD/part, or
// without some of these.
func (t *table) row(distribution, name string) *row {
	part := append(strings.Split(name, "/"), "", "")
	want := row{distribution: distribution, test: part[0], host: hosts[part[1]], containerd: "2.4"}
	if v := part[2]; want.host != "" && (v == "1.7" || v == "1.6") {
		want.containerd = v
	}
	for _, r := range t.rows {
		if r.distribution == want.distribution && r.test == want.test && r.host == want.host && r.containerd == want.containerd {
			return r
		}
	}
	t.rows = append(t.rows, &want)
	return &want
}

func (t *table) failed() bool { return len(t.failures) > 0 || len(t.rows) == 0 }

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "distribution\tcontainerd\thost\ttest\tpassed\tskipped\tfailed\ttime")
	for _, r := range t.rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.0fs\n", r.distribution, r.containerd, r.host, r.test, r.passed, r.skipped, r.failed, r.seconds)
	}
	_ = tw.Flush() // what w is, is the terminal
	for _, f := range t.failures {
		fmt.Fprintln(w, "failed:", f)
	}
}
