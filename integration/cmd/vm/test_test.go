package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestResultsAreCountedByHostAndContainerd(t *testing.T) {
	var got table
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
		"",
	}, "\n")), "trixie")
	var rows []row
	for _, r := range got.rows {
		rows = append(rows, *r)
	}
	assert.Equal(t, []row{
		{distribution: "trixie", containerd: "2.4", host: "native", test: "TestLifecycle", passed: 1, failed: 1, seconds: 2},
		{distribution: "trixie", containerd: "1.6", host: "native", test: "TestLifecycle", skipped: 1},
		{distribution: "trixie", containerd: "2.4", host: "crun", test: "TestMany", passed: 1, seconds: 1},
		{distribution: "trixie", containerd: "2.4", test: "TestPlain", passed: 1, seconds: 1},
	}, rows)
	assert.True(t, got.failed())
	assert.Contains(t, got.failures, "trixie TestLifecycle/lxc/2.4/exit-1")
}

func TestNoResultIsAFailure(t *testing.T) { assert.True(t, new(table).failed()) }
