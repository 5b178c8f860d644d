package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestResultsAreCountedByHostAndContainerd(t *testing.T) {
	got := table{suite: suite{distribution: "trixie"}}
	got.read(strings.NewReader(strings.Join([]string{
		"\x16=== RUN   TestLifecycle",
		"some output --- PASS: no/result (1.00s)",
		"\x16    --- PASS: TestLifecycle/lxc/2.4/exit-0 (1.50s)",
		"\x16    --- FAIL: TestLifecycle/lxc/2.4/exit-1 (0.50s)",
		"\x16    --- FAIL: TestLifecycle/lxc/2.4 (2.00s)",
		"\x16    --- SKIP: TestLifecycle/lxc/1.6 (0.00s)",
		"\x16--- FAIL: TestLifecycle (2.00s)",
		"\x16--- PASS: TestMany/crun (1.00s)",
		"\x16--- PASS: TestMany (1.00s)",
		"\x16--- PASS: TestPlain (1.00s)",
		"\x16--- PASS: TestOther/1.7/crun (1.00s)",
		"",
	}, "\n")))
	var rows []row
	for _, r := range got.rows {
		rows = append(rows, *r)
	}
	assert.Equal(t, []row{
		{distribution: "trixie", containerd: "2.4", host: "native", test: "TestLifecycle", passed: 1, failed: 1, seconds: 2},
		{distribution: "trixie", containerd: "1.6", host: "native", test: "TestLifecycle", skipped: 1},
		{distribution: "trixie", containerd: "2.4", host: "crun", test: "TestMany", passed: 1, seconds: 1},
		{distribution: "trixie", containerd: "2.4", host: "native", test: "TestPlain", passed: 1, seconds: 1},
		{distribution: "trixie", containerd: "1.7", host: "crun", test: "TestOther", passed: 1, seconds: 1},
	}, rows)
	assert.Contains(t, got.failures, "trixie TestLifecycle/lxc/2.4/exit-1")
}

func TestSuiteSaysHostAndContainerdOfItsRows(t *testing.T) {
	got := table{suite: suite{distribution: "bookworm", host: pve, containerd: "1.6"}}
	got.read(strings.NewReader("\x16    --- PASS: TestLifecycleOnProxmox/exit-0 (1.00s)\n"))
	got.end(0)
	assert.Equal(t, row{distribution: "bookworm", containerd: "1.6", host: "pve", test: "TestLifecycleOnProxmox", passed: 1, seconds: 1}, *got.rows[0])
	assert.Empty(t, got.failures)
}

func TestTableNamesWhatWasSkippedAndWhy(t *testing.T) {
	got := table{suite: suite{distribution: "trixie"}}
	got.read(strings.NewReader(strings.Join([]string{
		"=== RUN   TestX/lxc",
		"    x_test.go:7: a remark",
		"--- PASS: TestX/lxc (2.00s)",
		"    spec_test.go:7: this machine lacks SELinux",
		"    --- SKIP: TestX/label (0.00s)",
		"    spec_test.go:7: this machine lacks SELinux",
		"--- SKIP: TestY/lxc (0.00s)",
		"    main_test.go:9: another guest is the node",
		"--- SKIP: TestNode (0.00s)",
		"--- FAIL: TestZ (1.00s)",
	}, "\n")))
	var out strings.Builder
	got.print(&out)
	assert.Equal(t, []string{
		"distribution  containerd  host    test   passed  skipped  failed  time",
		"trixie        2.4         native  TestX  1       1        0       2s",
		"trixie        2.4         native  TestZ  0       0        1       1s",
		"skipped: trixie: this machine lacks SELinux: TestX/label, TestY/lxc",
		"skipped: trixie: another guest is the node: 1 tests",
		"failed: trixie TestZ",
	}, strings.Split(strings.TrimSpace(out.String()), "\n"))
}

func TestASuiteThatShowsNothingHasFailed(t *testing.T) {
	for name, tc := range map[string]struct {
		output string
		code   int
		want   string
	}{
		"no test":     {"", 0, "trixie: no test has passed"},
		"all skipped": {"--- SKIP: TestX (0.00s)\n", 0, "trixie: no test has passed"},
		"broken off":  {"--- PASS: TestX (0.00s)\n", 124, "trixie: exit code 124"},
		"failed":      {"--- PASS: TestX (0.00s)\n--- FAIL: TestY (0.00s)\n", 1, "trixie TestY"},
	} {
		t.Run(name, func(t *testing.T) {
			got := table{suite: suite{distribution: "trixie"}}
			got.read(strings.NewReader(tc.output))
			got.end(tc.code)
			assert.Equal(t, []string{tc.want}, got.failures)
		})
	}
}

func TestTheEndOfAConsoleIsShown(t *testing.T) {
	assert.Equal(t, "b\nc", tail("a\nb\nc\n", 2))
	assert.Equal(t, "a", tail("a\n", 2))
}

func TestSuitesAreChosen(t *testing.T) {
	names := func(s settings) (names []string) {
		for _, one := range suites(s, nil) {
			names = append(names, one.name())
		}
		return names
	}
	assert.Equal(t, []string{"trixie", "trixie-pve-1.7"}, names(settings{short: true}))
	assert.Equal(t, []string{"bookworm-pve-1.6", "bookworm-pve-2.4"},
		names(settings{distribution: "bookworm", host: pve, given: map[string]bool{"distribution": true, "host": true}}))
	one := suites(settings{}, []string{"TestX"})[1]
	assert.Equal(t, "TestX", one.pattern)
	assert.Contains(t, one.command(nil).Env, "NEXCAGE_SESSION=guest")
}
