package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const coverageFile = "../docs/spec-coverage.md"

// shownBy names the test that shows what a property, and every one below it
// without an entry of its own, does. A test's name has the name of a row after
// the slash. Rows of integration/ run real containers on LXC and on crun.
var shownBy = map[string]string{
	"linux.netDevices":                "TestSpecNetDevices/network-device",
	"linux.intelRdt":                  "TestSpecIntelRdt/class-of-the-container",
	"linux.intelRdt.enableMonitoring": "TestSpecIntelRdt/monitoring-group",
	"linux.intelRdt.schemata":         "TestSpecIntelRdt/class-with-schemata",
	"linux.intelRdt.l3CacheSchema":    "TestSpecIntelRdt/class-with-l3CacheSchema",
	"linux.intelRdt.memBwSchema":      "TestSpecIntelRdt/class-with-memBwSchema",

	"ociVersion":  "TestSpecRoot/version",
	"annotations": "TestSpecRoot/annotations",

	"root.path":     "TestSpecRoot/root-path",
	"root.readonly": "TestSpecRoot/root-readonly",
	"hostname":      "TestSpecRoot/hostname",
	"domainname":    "TestSpecRoot/domainname",

	"mounts[].destination": "TestSpecMounts/mount-types",
	"mounts[].type":        "TestSpecMounts/mount-types",
	"mounts[].source":      "TestSpecMounts/mount-types",
	"mounts[].options":     "TestSpecMounts/recursive-attributes",
	"mounts[].uidMappings": "TestSpecUserNamespaces/mount-id-mappings",
	"mounts[].gidMappings": "TestSpecUserNamespaces/mount-id-mappings",

	"hooks.prestart":                  "TestSpecHooks/prestart",
	"hooks.prestart[].timeout":        "TestSpecHooks/prestart-takes-too-long",
	"hooks.createRuntime":             "TestSpecHooks/createRuntime",
	"hooks.createRuntime[].timeout":   "TestSpecHooks/createRuntime-takes-too-long",
	"hooks.createContainer":           "TestSpecHooks/createContainer",
	"hooks.createContainer[].timeout": "TestSpecHooks/createContainer-takes-too-long",
	"hooks.startContainer":            "TestSpecHooks/startContainer",
	"hooks.startContainer[].timeout":  "TestAContainerWhoseStartContainerHookHangsIsKilled",
	"hooks.poststart":                 "TestSpecHooks/poststart",
	"hooks.poststop":                  "TestSpecHooks/poststop",

	"process.terminal":                 "TestSpecProcess/terminal",
	"process.consoleSize":              "TestSpecProcess/terminal",
	"process.user":                     "TestSpecProcess/user",
	"process.user.umask":               "TestSpecProcess/umask",
	"process.args":                     "TestSpecProcess/args",
	"process.env":                      "TestSpecProcess/env",
	"process.cwd":                      "TestSpecProcess/cwd",
	"process.capabilities":             "TestSpecProcess/capabilities-of-a-user",
	"process.capabilities.effective":   "TestSpecProcess/capabilities-of-root",
	"process.capabilities.inheritable": "TestSpecProcess/capabilities-of-root",
	"process.rlimits":                  "TestSpecProcess/rlimits",
	"process.noNewPrivileges":          "TestSpecProcess/no-new-privileges",
	"process.oomScoreAdj":              "TestSpecProcess/oom-score-adj",
	"process.apparmorProfile":          "TestSpecAttributes/apparmor-profile-enforced",
	"process.selinuxLabel":             "TestSpecProcess/selinux-label",
	"process.scheduler":                "TestSpecAttributes/scheduler-batch",
	"process.scheduler.priority":       "TestSpecAttributes/scheduler-fifo",
	"process.scheduler.flags":          "TestSpecAttributes/scheduler-fifo",
	"process.scheduler.runtime":        "TestSpecAttributes/scheduler-deadline",
	"process.scheduler.deadline":       "TestSpecAttributes/scheduler-deadline",
	"process.scheduler.period":         "TestSpecAttributes/scheduler-deadline",
	"process.ioPriority":               "TestSpecAttributes/io-priority",
	"process.execCPUAffinity.initial":  "TestSpecAttributes/exec-affinity-initial",
	"process.execCPUAffinity.final":    "TestSpecAttributes/exec-affinity-final",

	"linux.namespaces[].type": "TestSpecNamespaces/new-ipc",
	"linux.namespaces[].path": "TestSpecNamespaces/joined-ipc",
	"linux.uidMappings":       "TestSpecUserNamespaces/id-mappings",
	"linux.gidMappings":       "TestSpecUserNamespaces/id-mappings",
	"linux.sysctl":            "TestSpecRoot/sysctl",
	"linux.cgroupsPath":       "TestSpecResources/cgroups-path",
	"linux.devices":           "TestSpecRoot/devices",
	"linux.rootfsPropagation": "TestSpecRoot/root-propagation-rshared",
	"linux.maskedPaths":       "TestSpecRoot/masked-paths",
	"linux.readonlyPaths":     "TestSpecRoot/readonly-paths",
	"linux.mountLabel":        "TestSpecProcess/mount-label",
	"linux.timeOffsets":       "TestSpecAttributes/time-offsets",
	"linux.memoryPolicy":      "TestSpecAttributes/memory-policy",
	"linux.personality":       "TestSpecProcess/personality",
	"linux.personality.flags": "TestSpecProcess/personality-flags",

	"linux.seccomp.listenerPath":               "TestSpecAttributes/seccomp-listener",
	"linux.seccomp.listenerMetadata":           "TestSpecAttributes/seccomp-listener",
	"linux.seccomp.defaultAction":              "TestSpecSeccomp/seccomp-default-errno",
	"linux.seccomp.defaultErrnoRet":            "TestSpecSeccomp/seccomp-default-errno",
	"linux.seccomp.architectures":              "TestSpecSeccomp/seccomp-architectures",
	"linux.seccomp.flags":                      "TestSpecSeccomp/seccomp-flags",
	"linux.seccomp.syscalls[].names":           "TestSpecSeccomp/seccomp",
	"linux.seccomp.syscalls[].action":          "TestSpecSeccomp/seccomp-errno",
	"linux.seccomp.syscalls[].errnoRet":        "TestSpecSeccomp/seccomp-errno",
	"linux.seccomp.syscalls[].args[].index":    "TestSpecSeccomp/seccomp-two-arguments",
	"linux.seccomp.syscalls[].args[].value":    "TestSpecSeccomp/seccomp-two-arguments",
	"linux.seccomp.syscalls[].args[].op":       "TestSpecSeccomp/seccomp-SCMP_CMP_GE",
	"linux.seccomp.syscalls[].args[].valueTwo": "TestSpecSeccomp/seccomp-SCMP_CMP_MASKED_EQ",

	"linux.resources.devices":                         "TestSpecResources/device-rules",
	"linux.resources.memory.limit":                    "TestSpecResources/memory-limit",
	"linux.resources.memory.reservation":              "TestSpecResources/memory-reservation",
	"linux.resources.memory.swap":                     "TestSpecResources/memory-swap",
	"linux.resources.memory.kernel":                   "TestSpecResources/memory-kernel",
	"linux.resources.memory.kernelTCP":                "TestSpecResources/memory-kernel-tcp",
	"linux.resources.memory.swappiness":               "TestSpecResources/memory-swappiness",
	"linux.resources.memory.disableOOMKiller":         "TestSpecResources/memory-oom-killer",
	"linux.resources.memory.useHierarchy":             "TestSpecResources/memory-hierarchy",
	"linux.resources.memory.checkBeforeUpdate":        "TestSpecResources/memory-check-before-update",
	"linux.resources.cpu.shares":                      "TestSpecResources/cpu-shares",
	"linux.resources.cpu.quota":                       "TestSpecResources/cpu-quota",
	"linux.resources.cpu.burst":                       "TestSpecResources/cpu-burst",
	"linux.resources.cpu.period":                      "TestSpecResources/cpu-period",
	"linux.resources.cpu.realtimeRuntime":             "TestSpecResources/cpu-realtime-runtime",
	"linux.resources.cpu.realtimePeriod":              "TestSpecResources/cpu-realtime-period",
	"linux.resources.cpu.cpus":                        "TestSpecResources/cpu-cpus",
	"linux.resources.cpu.mems":                        "TestSpecResources/cpu-mems",
	"linux.resources.cpu.idle":                        "TestSpecResources/cpu-idle",
	"linux.resources.pids.limit":                      "TestSpecResources/pids-limit",
	"linux.resources.blockIO.weight":                  "TestSpecResources/block-weight",
	"linux.resources.blockIO.leafWeight":              "TestSpecResources/block-leaf-weight",
	"linux.resources.blockIO.weightDevice":            "TestSpecResources/block-weight-of-a-device",
	"linux.resources.blockIO.throttleReadBpsDevice":   "TestSpecResources/throttle-read-bps",
	"linux.resources.blockIO.throttleWriteBpsDevice":  "TestSpecResources/throttle-write-bps",
	"linux.resources.blockIO.throttleReadIOPSDevice":  "TestSpecResources/throttle-read-iops",
	"linux.resources.blockIO.throttleWriteIOPSDevice": "TestSpecResources/throttle-write-iops",
	"linux.resources.hugepageLimits":                  "TestSpecResources/hugepages",
	"linux.resources.network.classID":                 "TestSpecResources/network-class",
	"linux.resources.network.priorities":              "TestSpecResources/network-priorities",
	"linux.resources.rdma":                            "TestSpecResources/rdma",
	"linux.resources.unified":                         "TestSpecResources/unified",
}

// longest is the entry of a map by path that is about a property, and most
// closely.
func longest(paths map[string]string, field string) (path string) {
	for p := range paths {
		if covers(p, field) && len(p) > len(path) {
			path = p
		}
	}
	return path
}

// TestSpecCoverage holds docs/spec-coverage.md against the spec's types, the
// table of properties, and the tests. With -update it writes the file.
func TestSpecCoverage(t *testing.T) {
	used := map[string]bool{}
	var doc strings.Builder
	doc.WriteString(coverageHead)
	walk(reflect.TypeFor[specs.Spec](), "", func(field string) {
		c, ok := decision(field)
		if !ok {
			t.Errorf("%s is not in FieldCoverage", field)
			return
		}
		if c.Place == Unsupported {
			return // the section's line is below
		}
		test := "TestPropertiesThatTheTableRefuses/" + c.Path
		if p := longest(shownBy, field); p != "" {
			used[p], test = true, shownBy[p]
		} else if c.Place != Refused {
			t.Errorf("%s is %q, but no test is named that shows it: see shownBy", field, c.Place)
		}
		fmt.Fprintf(&doc, "| `%s` | %s | %s | `%s` |\n", field, c.Place, c.Note, test)
	})
	for _, c := range FieldCoverage() {
		if c.Place == Unsupported {
			fmt.Fprintf(&doc, "| `%s` | %s | %s | `TestPropertiesThatTheTableRefuses/%s` |\n", c.Path, c.Place, c.Note, c.Path)
		}
	}
	for p, test := range shownBy {
		assert.True(t, used[p], "%s is in shownBy, but is no property that it is needed for", p)
		assert.NoError(t, isTest(test), p)
	}
	if *update {
		require.NoError(t, os.WriteFile(coverageFile, []byte(doc.String()), 0o644))
	}
	want, err := os.ReadFile(coverageFile)
	require.NoError(t, err)
	assert.Equal(t, string(want), doc.String(), "%s is not up to date: go test ./oci -run TestSpecCoverage -update", coverageFile)
}

func decision(field string) (Coverage, bool) {
	for _, c := range FieldCoverage() {
		if covers(c.Path, field) {
			return c, true
		}
	}
	return Coverage{}, false
}

// isTest finds a test function in integration or here, and the name of its row
// as a literal in the same file. A row that a function makes may have a name
// that only begins or ends with the literal.
func isTest(name string) error {
	function, row, _ := strings.Cut(name, "/")
	for _, pattern := range []string{"../integration/*_test.go", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if !regexp.MustCompile(`(?m)^func ` + function + `\(t `).Match(source) {
				continue
			}
			if row != "" && !hasRow(string(source), row) {
				return fmt.Errorf("%s has %s, but no row %q", file, function, row)
			}
			return nil
		}
	}
	return fmt.Errorf("there is no %s in integration/ or oci/", function)
}

var literal = regexp.MustCompile(`"([^"\\\n]+)"`)

func hasRow(source, name string) bool {
	for _, m := range literal.FindAllStringSubmatch(source, -1) {
		l := m[1]
		if l == name || strings.HasSuffix(l, "-") && strings.HasPrefix(name, l) || strings.HasPrefix(l, "-") && strings.HasSuffix(name, l) {
			return true
		}
	}
	return false
}

var coverageHead = `# Coverage of the runtime-spec

Every property of the OCI runtime-spec ` + specs.Version + `, where the LXC backend applies it, and the test that shows it. What is not applied is refused
with an error that names it. The crun backend hands on the whole spec.

A test ` + "`TestSpec…/row`" + ` (integration/spec_*_test.go) runs a real container with LXC and with crun, and asserts the same of both; other tests are
in oci/ and integration/. What a row needs of the machine, and the version of crun that knows the property, are in the row. Of control groups
the table has what is written in cgroup v1, then in v2 if that differs.

On a machine that lacks something the row asserts the error instead, and says so (` + "`go test -v`" + `: "this machine lacks …"). No run so far, on cgroup v1
or in the guests of ` + "`make test-vm`" + `, had resctrl, SELinux, a second NUMA node, or an RDMA device: there the rows are ready, resctrl's files are
tested against a tree of files (lxc/resctrl), and memory policies on the one node that there is.

This file is made from oci.FieldCoverage: ` + "`go test ./oci -run TestSpecCoverage -update`" + `. The same test fails when a property of the spec is not
decided on, when one that is applied has no test, or when a test does not exist.

| property | applied | how | shown by |
|---|---|---|---|
`

// The document of -info says the same as the table.
func TestFeaturesFollowTheTable(t *testing.T) {
	refused := func(path string) bool {
		c, ok := decision(path)
		require.True(t, ok, path)
		return c.Place == Refused
	}
	contains := func(list []string, name string) bool {
		return strings.Contains(" "+strings.Join(list, " ")+" ", " "+name+" ")
	}
	enabled := func(p *bool) bool { return p != nil && *p }
	f := Features()
	said := map[string]bool{
		"hooks.prestart":          contains(f.Hooks, "prestart"),
		"hooks.createRuntime":     contains(f.Hooks, "createRuntime"),
		"hooks.createContainer":   contains(f.Hooks, "createContainer"),
		"hooks.startContainer":    contains(f.Hooks, "startContainer"),
		"hooks.poststart":         contains(f.Hooks, "poststart"),
		"hooks.poststop":          contains(f.Hooks, "poststop"),
		"mounts[].uidMappings":    enabled(f.Linux.MountExtensions.IDMap.Enabled) && contains(f.MountOptions, "idmap") && contains(f.MountOptions, "ridmap"),
		"linux.uidMappings":       contains(f.Linux.Namespaces, "user"),
		"linux.gidMappings":       contains(f.Linux.Namespaces, "user"),
		"linux.netDevices":        enabled(f.Linux.NetDevices.Enabled),
		"linux.intelRdt":          enabled(f.Linux.IntelRdt.Enabled),
		"linux.memoryPolicy":      f.Linux.MemoryPolicy != nil && len(f.Linux.MemoryPolicy.Modes) > 0,
		"linux.seccomp":           enabled(f.Linux.Seccomp.Enabled) && len(f.Linux.Seccomp.Actions) > 0,
		"process.apparmorProfile": enabled(f.Linux.Apparmor.Enabled),
		"process.selinuxLabel":    enabled(f.Linux.Selinux.Enabled),
		"linux.mountLabel":        enabled(f.Linux.Selinux.Enabled),
		"process.capabilities":    len(f.Linux.Capabilities) > 0,
		"linux.resources.devices": enabled(f.Linux.Cgroup.V1) && enabled(f.Linux.Cgroup.V2),
	}
	for path, says := range said {
		assert.Equal(t, !refused(path), says, "%s: what -info says, and what the table does", path)
	}
}
