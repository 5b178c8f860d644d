package oci

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const bundleDir = "/run/containerd/io.containerd.runtime.v2.task/default/demo"

// minimal is the smallest spec that is translated, with changes.
func minimal(changes ...func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
	}
	for _, c := range changes {
		c(s)
	}
	return s
}

func ptr[T any](v T) *T { return &v }

func translate(t *testing.T, changes ...func(*specs.Spec)) *Plan {
	t.Helper()
	p, err := Translate(bundleDir, minimal(changes...))
	require.NoError(t, err)
	return p
}

// refusedCase is a spec that is refused with exactly this text.
type refusedCase struct {
	name   string
	change func(*specs.Spec)
	want   string
	kind   error // errdefs.ErrInvalidArgument if nil
}

func testRefused(t *testing.T, cases []refusedCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Translate(bundleDir, minimal(c.change))
			require.EqualError(t, err, c.want)
			var field *FieldError
			require.ErrorAs(t, err, &field)
			if c.kind == nil {
				c.kind = errdefs.ErrInvalidArgument
			}
			assert.ErrorIs(t, err, c.kind)
		})
	}
}

// bundles are config.json files as clients write them. Those of ctr and of
// nerdctl are what containerd's package oci makes of the options that the two
// use, in the versions that the names have; those of cri are what its CRI
// plugin makes. Most of the host's devices were taken out.
func bundles(t testing.TB) []string {
	files, err := filepath.Glob("testdata/bundles/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func TestBundlesOfClientsAreTranslated(t *testing.T) {
	for _, file := range bundles(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			spec, err := Parse(b)
			require.NoError(t, err)
			plan, err := Translate(bundleDir, spec)
			require.NoError(t, err)
			assert.Same(t, spec.Process, plan.Process)
			assert.Same(t, spec.Linux.Seccomp, plan.Seccomp)
			compare(t, filepath.Join("testdata/plans", name+".txt"), render(t, *plan))
		})
	}
}

// render shows all of a plan that is not shared with the spec, and the
// operations that make the process.
func render(t *testing.T, p Plan) []byte {
	o := ProcessOptions{Stdin: 0, Stdout: 1, Stderr: 2, Terminal: p.Process.Terminal, Personality: p.Personality}
	if p.Filter != nil {
		o.Seccomp, o.SeccompFlags = make([]byte, 8), p.Filter.Flags // the program itself is another package's
		p.Filter = &Filter{Program: o.Seccomp, Flags: p.Filter.Flags}
	}
	prepare, start, err := ProcessOps(p.Process, o)
	require.NoError(t, err)
	for _, ops := range [][]initop.Op{prepare, start} {
		_, err = initop.Encode(ops)
		require.NoError(t, err)
	}
	p.Process, p.Seccomp, p.Hooks = nil, nil, nil
	var b bytes.Buffer
	dump(&b, "", reflect.ValueOf(p))
	dump(&b, "prepare", reflect.ValueOf(texts(prepare)))
	dump(&b, "start", reflect.ValueOf(texts(start)))
	return b.Bytes()
}

// dump writes a line for every value that is not zero, and for every optional
// one that is there.
func dump(b *bytes.Buffer, path string, v reflect.Value) {
	switch k := v.Kind(); {
	case k == reflect.Pointer && !v.IsNil():
		dump(b, path, v.Elem())
	case k == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() || f.Type() == reflect.TypeFor[MountKind]() {
				dump(b, join(path, v.Type().Field(i).Name), f)
			}
		}
	case k == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		for i := range v.Len() {
			dumpElement(b, at(path, i), v.Index(i))
		}
	case k == reflect.Map:
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int {
			return strings.Compare(a.String(), b.String())
		}) {
			fmt.Fprintf(b, "%s[%s]: %+v\n", path, name, v.MapIndex(name))
		}
	default:
		fmt.Fprintf(b, "%s: %s\n", path, scalar(v))
	}
}

func scalar(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Int32: // the type of a device
		return fmt.Sprintf("%c", v.Int())
	case reflect.Uint32, reflect.Uint64: // mostly masks
		return fmt.Sprintf("%#x", v.Uint())
	}
	return fmt.Sprint(v)
}

// dumpElement writes an element on one line.
func dumpElement(b *bytes.Buffer, path string, v reflect.Value) {
	if v.Kind() != reflect.Struct {
		fmt.Fprintf(b, "%s: %s\n", path, scalar(v))
		return
	}
	var fields bytes.Buffer
	dump(&fields, "", v)
	fmt.Fprintf(b, "%s: %s\n", path, strings.ReplaceAll(strings.TrimSpace(fields.String()), "\n", "; "))
}

func texts(ops []initop.Op) []string {
	out := make([]string, len(ops))
	for i, o := range ops {
		out[i] = o.String()
	}
	return out
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "run the test with -update")
	assert.Equal(t, string(want), string(got))
}

func TestVersionOfTheSpec(t *testing.T) {
	for _, v := range []string{"1.0.0", "1.0.2-dev", "1.1.0+x", specs.Version} {
		t.Run(v, func(t *testing.T) {
			assert.Empty(t, translate(t, func(s *specs.Spec) { s.Version = v }).Warnings)
		})
	}
	t.Run("newer", func(t *testing.T) {
		p := translate(t, func(s *specs.Spec) { s.Version = "1.99.0" })
		require.Len(t, p.Warnings, 1)
		assert.Contains(t, p.Warnings[0], `ociVersion: "1.99.0" is newer than`)
	})
	testRefused(t, []refusedCase{
		{"none", func(s *specs.Spec) { s.Version = "" }, `ociVersion: "" is not a semantic version`, nil},
		{"no number", func(s *specs.Spec) { s.Version = "1.x.0" }, `ociVersion: "1.x.0" is not a semantic version`, nil},
		{"two numbers", func(s *specs.Spec) { s.Version = "1.0" }, `ociVersion: "1.0" is not a semantic version`, nil},
		{"next", func(s *specs.Spec) { s.Version = "2.0.0" }, `ociVersion: "2.0.0" is not supported: 1.x is, up to ` + specs.Version, nil},
	})
}

func TestBundleMustBeAbsolute(t *testing.T) {
	_, err := Translate("bundle", minimal())
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestRootFileSystem(t *testing.T) {
	p := translate(t, func(s *specs.Spec) {
		s.Root = &specs.Root{Path: "rootfs/", Readonly: true}
		s.Linux.RootfsPropagation = "rslave"
	})
	assert.Equal(t, Root{Path: bundleDir + "/rootfs", Readonly: true, Propagation: 0x84000}, p.Root)
	assert.Equal(t, "/srv/root", translate(t, func(s *specs.Spec) { s.Root.Path = "/srv//root" }).Root.Path)

	testRefused(t, []refusedCase{
		{"none", func(s *specs.Spec) { s.Root = nil }, "root: is required", nil},
		{"no path", func(s *specs.Spec) { s.Root.Path = "" }, "root.path: is required", nil},
		{"NUL", func(s *specs.Spec) { s.Root.Path = "a\x00b" }, `root.path: "a\x00b" has a NUL byte`, nil},
		{
			"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "PRIVATE" },
			`linux.rootfsPropagation: "PRIVATE" is not one of private, rprivate, rshared, rslave, runbindable, shared, slave, unbindable`, nil,
		},
	})
}

func TestAnnotationsHaveKeys(t *testing.T) {
	translate(t, func(s *specs.Spec) { s.Annotations = map[string]string{"a\nb": "\n"} })
	testRefused(t, []refusedCase{
		{"empty", func(s *specs.Spec) { s.Annotations = map[string]string{"": "x"} }, "annotations: a key is empty", nil},
	})
}

func TestErrorsShowOnlyTheStartOfLongValues(t *testing.T) {
	err := invalid("x", strings.Repeat("a", 1<<20), "is long")
	assert.Less(t, len(err.Error()), 300)
}

func BenchmarkTranslate(b *testing.B) {
	config, err := os.ReadFile("testdata/bundles/containerd2.4-nerdctl.json")
	require.NoError(b, err)
	for b.Loop() {
		spec, err := Parse(config)
		require.NoError(b, err)
		_, err = Translate(bundleDir, spec)
		require.NoError(b, err)
	}
}
