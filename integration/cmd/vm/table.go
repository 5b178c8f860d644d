package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// row counts the results of one line of the table.
type row struct {
	distribution, containerd, host, test string

	passed, failed, skipped int
	seconds                 float64
}

// table is that of a suite, or of several.
type table struct {
	suite    suite
	rows     []*row
	failures []string
	skips    []skip
	last     string // the test that ended before
	said     string // the last that a test logged
}

// skip is a test, or a part of one, that was skipped.
type skip struct{ suite, test, why string }

// logged is a line that a test logged, as the reason of a skip.
var logged = regexp.MustCompile(`^\w+\.go:\d+: (.+)$`)

// read takes the results from the output of the tests, as it comes: in the
// form for test2json a marker stands before each.
func (t *table) read(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		var result, name string
		var seconds float64
		line = strings.TrimSpace(strings.Trim(line, "\x16\n"))
		if m := logged.FindStringSubmatch(line); m != nil {
			t.said = m[1]
		}
		if n, _ := fmt.Sscanf(line, "--- %4s: %s (%fs)", &result, &name, &seconds); n == 3 {
			t.result(result, name, seconds)
			t.said = ""
			fmt.Printf("%s %s %s %.1fs\n", t.suite.name(), result, name, seconds)
		}
		if err != nil {
			return
		}
	}
}

// result counts a test that has no parts, and every failure.
func (t *table) result(result, name string, seconds float64) {
	if result == "FAIL" {
		t.failures = append(t.failures, t.suite.name()+" "+name)
	}
	if strings.HasPrefix(t.last, name+"/") {
		return // its parts have been counted
	}
	t.last = name
	r := t.row(name)
	r.seconds += seconds
	switch result {
	case "PASS":
		r.passed++
	case "SKIP":
		r.skipped++
		t.skips = append(t.skips, skip{t.suite.name(), name, t.said})
	default:
		r.failed++
	}
}

// end takes the exit code: a suite that shows nothing has failed too.
func (t *table) end(code int) {
	shown := slices.ContainsFunc(t.rows, func(r *row) bool { return r.passed > 0 })
	switch {
	case code != 0 && len(t.failures) == 0:
		t.failures = append(t.failures, fmt.Sprintf("%s: exit code %d", t.suite.name(), code))
	case !shown:
		t.failures = append(t.failures, t.suite.name()+": no test has passed")
	}
}

func (t *table) add(other table) {
	t.rows = append(t.rows, other.rows...)
	t.failures = append(t.failures, other.failures...)
	t.skips = append(t.skips, other.skips...)
}

// hosts are what the runtimes of the tests stand for.
var hosts = map[string]string{"lxc": "native", "lxc-userns": "native", "crun": "crun", "runc-shim": "reference"}

// versions are those of containerd, newest first.
var versions = []string{"2.4", "1.7", "1.6"}

// row finds the row of a test, which is named Test/RUNTIME/CONTAINERD/part, in
// another order, or without some of these: then it is the suite's, or plain LXC
// under the newest.
func (t *table) row(name string) *row {
	part := strings.Split(name, "/")
	want := row{distribution: t.suite.distribution, test: part[0], host: t.suite.host, containerd: t.suite.containerd}
	for _, p := range part[1:min(len(part), 3)] {
		if t.suite.host == "" && want.host == "" {
			want.host = hosts[p]
		}
		if slices.Contains(versions, p) {
			want.containerd = p
		}
	}
	want.host = cmp.Or(want.host, "native")
	want.containerd = cmp.Or(want.containerd, versions[0])
	for _, r := range t.rows {
		if r.distribution == want.distribution && r.test == want.test && r.host == want.host && r.containerd == want.containerd {
			return r
		}
	}
	t.rows = append(t.rows, &want)
	return &want
}

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "distribution\tcontainerd\thost\ttest\tpassed\tskipped\tfailed\ttime")
	for _, r := range t.rows {
		if r.passed+r.failed == 0 {
			continue // is told below
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.0fs\n", r.distribution, r.containerd, r.host, r.test, r.passed, r.skipped, r.failed, r.seconds)
	}
	_ = tw.Flush() // what w is, is the terminal
	t.printSkips(w)
	for _, f := range t.failures {
		fmt.Fprintln(w, "failed:", f)
	}
}

// printSkips names by reason what was skipped. What another suite's guest is for
// is only counted.
func (t *table) printSkips(w io.Writer) {
	var order []string
	names := map[string][]string{}
	for _, s := range t.skips {
		why := s.suite + ": " + s.why
		if names[why] == nil {
			order = append(order, why)
		}
		names[why] = append(names[why], s.test)
	}
	for _, why := range order {
		what := strings.Join(names[why], ", ")
		if strings.Contains(why, "guest") {
			what = fmt.Sprint(len(names[why]), " tests")
		}
		fmt.Fprintf(w, "skipped: %s: %s\n", why, what)
	}
}
