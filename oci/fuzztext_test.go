package oci

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// everyText is a spec with something valid in each property that takes text.
const everyText = `{
	"ociVersion": "1.3.0", "hostname": "h", "domainname": "d", "annotations": {"a": "b"}, "root": {"path": "r"},
	"process": {"cwd": "/", "args": ["a"], "env": ["A=b"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
		"capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
		"scheduler": {"policy": "SCHED_OTHER", "nice": 1}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}, "execCPUAffinity": {"initial": "0", "final": "0"}},
	"mounts": [{"destination": "/m", "type": "tmpfs", "source": "s", "options": ["mode=1777"]}],
	"hooks": {"prestart": [{"path": "/h", "args": ["h"], "env": ["A=b"]}], "createRuntime": [{"path": "/h", "args": ["h"], "env": ["A=b"]}],
		"poststart": [{"path": "/h", "args": ["h"], "env": ["A=b"]}], "poststop": [{"path": "/h", "args": ["h"], "env": ["A=b"]}],
		"createContainer": [{"path": "/h", "args": ["h"], "env": ["A=b"]}], "startContainer": [{"path": "/h", "args": ["h"], "env": ["A=b"]}]},
	"linux": {
		"namespaces": [{"type": "ipc"}, {"type": "mount"}, {"type": "uts"}, {"type": "network"}, {"type": "pid"}],
		"sysctl": {"net.ipv4.ip_forward": "1"}, "cgroupsPath": "/a/b", "rootfsPropagation": "private", "maskedPaths": ["/x"], "readonlyPaths": ["/y"],
		"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}], "netDevices": {"eth0": {"name": "e"}}, "personality": {"domain": "LINUX"},
		"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
			"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]},
		"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "intelRdt": {"closID": "c", "schemata": ["L3:0=f"]},
		"resources": {"devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}], "cpu": {"cpus": "0", "mems": "0"},
			"hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "network": {"priorities": [{"name": "lo", "priority": 1}]}, "rdma": {"x": {"hcaObjects": 1}}}
	}}`

// Any text in any one property that takes text: it is refused by name, or the
// plan keeps its promises, and has no mount, device, or line more than before.
func FuzzText(f *testing.F) {
	var paths []string // name# is the name of an element in a map
	walk(reflect.TypeFor[specs.Spec](), "", func(path string) {
		for _, p := range []string{path, path + "#"} {
			if put(reflect.ValueOf(textSpec(f)), way(p), "x") {
				paths = append(paths, p)
			}
		}
	})
	if !slices.Contains(paths, "linux.seccomp.syscalls[].args[].op") || !slices.Contains(paths, "linux.sysctl#") {
		f.Fatal(paths)
	}
	for i := range paths {
		for _, s := range []string{"", "..", "a\nlxc.hook.pre-start = /x", "a\x00", "/a b\t\\040 \"'#\xff"} {
			f.Add(uint16(i), s)
		}
	}
	base, err := Translate(bundleDir, textSpec(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint16, text string) {
		s := textSpec(t)
		put(reflect.ValueOf(s), way(paths[int(which)%len(paths)]), text)
		plan, err := Translate(bundleDir, s)
		var field *FieldError
		switch {
		case err != nil && !errors.As(err, &field):
			t.Errorf("%v names no property", err)
		case err == nil:
			checkPlan(t, plan)
			if len(plan.Mounts) > len(base.Mounts) || len(plan.Devices) > len(base.Devices) || len(plan.Config) > len(base.Config)+1 {
				t.Errorf("%q brings %v %v %v", text, plan.Mounts, plan.Devices, plan.Config)
			}
		}
	})
}

func textSpec(t testing.TB) *specs.Spec {
	s, err := Parse([]byte(everyText))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func way(path string) []string {
	return strings.Split(strings.NewReplacer("[]", ".[]", "{}", ".{}", "#", ".#").Replace(path), ".")
}

// put replaces the text of a property, or of its first element; false if it
// has none.
func put(v reflect.Value, path []string, text string) bool {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return false
		}
		return put(v.Elem(), path, text)
	case reflect.Slice:
		return v.Len() > 0 && put(v.Index(0), rest(path, "[]"), text)
	case reflect.Map:
		return putElement(v, rest(path, "{}"), text)
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if name := nameOf(field); len(path) > 0 && name == path[0] {
				return put(v.Field(i), path[1:], text)
			} else if name == "" && put(v.Field(i), path, text) {
				return true
			}
		}
	case reflect.String:
		if len(path) == 0 {
			v.SetString(text)
		}
		return len(path) == 0
	}
	return false
}

func putElement(v reflect.Value, path []string, text string) bool {
	names := v.MapKeys()
	if len(names) == 0 {
		return false
	}
	name := names[0]
	element := reflect.New(v.Type().Elem()).Elem()
	element.Set(v.MapIndex(name))
	if len(path) == 1 && path[0] == "#" {
		v.SetMapIndex(name, reflect.Value{})
		name = reflect.ValueOf(text)
	} else if !put(element, path, text) {
		return false
	}
	v.SetMapIndex(name, element)
	return true
}

func rest(path []string, mark string) []string {
	if len(path) > 0 && path[0] == mark {
		return path[1:]
	}
	return path
}

// The process of an exec, which is decoded by itself: it is refused by name,
// or can be sent to the helper.
func FuzzProcess(f *testing.F) {
	for _, s := range []string{
		`{"cwd":"/","args":["a\nb",""],"env":["A=b\nC=d","=","PATH=:/x/../y"],"user":{"uid":1,"additionalGids":[4294967295]}}`,
		`{"terminal":true,"consoleSize":{"height":70000},"cwd":"//","args":["\u0000"],"capabilities":{"ambient":["CAP_X\n"]}}`,
		`{"cwd":"/a","args":["x"],"rlimits":[{"type":"RLIMIT_NOFILE","soft":2,"hard":1}],"oomScoreAdj":1001,"apparmorProfile":"a\nb"}`,
		`{"cwd":"/a","args":["x"],"scheduler":{"policy":"SCHED_OTHER","nice":20},"ioPriority":{"class":"X","priority":9},"execCPUAffinity":{"initial":"0-","final":",\n"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &specs.Process{}
		if json.Unmarshal(b, p) != nil {
			return
		}
		if _, err := CheckProcess(p); err != nil {
			var field *FieldError
			if !errors.As(err, &field) || !strings.HasPrefix(field.Path, "process") {
				t.Errorf("%v names no property", err)
			}
			return
		}
		checkOps(t, &Plan{Process: p})
	})
}
