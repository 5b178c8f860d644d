package oci

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// walk calls f for every property below a type that has no properties itself,
// with its path as in Coverage.
func walk(t reflect.Type, path string, f func(path string)) {
	switch t.Kind() {
	case reflect.Pointer:
		walk(t.Elem(), path, f)
	case reflect.Slice:
		walkElements(t.Elem(), path, "[]", f)
	case reflect.Map:
		walkElements(t.Elem(), path, "{}", f)
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i)
			walk(field.Type, join(path, nameOf(field)), f)
		}
	default:
		f(path)
	}
}

func walkElements(t reflect.Type, path, mark string, f func(path string)) {
	if t.Kind() == reflect.Struct {
		walk(t, path+mark, f)
		return
	}
	f(path)
}

// nameOf is the name in JSON, "" for a struct whose fields are inlined.
func nameOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

func TestEveryPropertyOfTheSpecIsDecidedOn(t *testing.T) {
	table := FieldCoverage()
	used := map[string]bool{}
	walk(reflect.TypeFor[specs.Spec](), "", func(field string) {
		var entries []string
		for _, c := range table {
			if covers(c.Path, field) {
				used[c.Path] = true
				entries = append(entries, c.Path)
			}
		}
		assert.Len(t, entries, 1, "%s is not in the table, or twice", field)
	})
	for _, c := range table {
		assert.True(t, used[c.Path], "%s is in the table, but not in the spec", c.Path)
		assert.NotEqual(t, c.Place == Refused || c.Place == Unsupported, c.Note != "", "%s: a note says how a property is applied", c.Path)
	}
}

// What the table calls refused is really refused, and by its name.
func TestPropertiesThatTheTableRefuses(t *testing.T) {
	index := regexp.MustCompile(`\[\d+\]`)
	for _, c := range FieldCoverage() {
		if c.Place != Refused && c.Place != Unsupported {
			continue
		}
		t.Run(c.Path, func(t *testing.T) {
			s := minimal()
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs"}}
			fill(t, reflect.ValueOf(s), strings.Split(strings.ReplaceAll(c.Path, "[]", ".[]"), "."))
			_, err := Translate(bundleDir, s)
			var field *FieldError
			require.ErrorAs(t, err, &field)
			assert.Equal(t, c.Path, index.ReplaceAllString(field.Path, "[]"))
		})
	}
}

// fill sets the property at path to something that is not zero.
func fill(t *testing.T, v reflect.Value, path []string) {
	t.Helper()
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fill(t, v.Elem(), path)
		return
	}
	if len(path) == 0 {
		setValue(t, v)
		return
	}
	if path[0] == "[]" {
		fill(t, v.Index(0), path[1:])
		return
	}
	for i := range v.NumField() {
		if nameOf(v.Type().Field(i)) == path[0] {
			fill(t, v.Field(i), path[1:])
			return
		}
	}
	t.Fatalf("%s has no %s", v.Type(), path[0])
}

func setValue(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(v.Type().Elem()))
	case reflect.Struct: // reached through a pointer, which is set
	default:
		t.Fatalf("%s can not be set", v.Type())
	}
}
