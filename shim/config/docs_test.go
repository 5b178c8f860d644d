package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	docsPath    = "../../docs/configuration.md"
	examplePath = "../../packaging/config.toml"
)

// The keys of docs/configuration.md and their defaults are those of Config.
func TestDocumentationHasEveryKeyWithItsDefault(t *testing.T) {
	text, err := os.ReadFile(docsPath)
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "\n## Keys\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	got := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (`[^`]*`|required) \\| [^|\n]{10,} \\|$")
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		assert.NotContains(t, got, m[1], "documented twice")
		got[m[1]] = strings.Trim(m[2], "`")
	}
	want := keys(t, "", reflect.ValueOf(*Default()))
	want["routing.rules.backend"] = "required"
	assert.Equal(t, want, got)
}

func TestExampleAsShippedIsTheDefault(t *testing.T) {
	c, err := Load(examplePath)
	require.NoError(t, err)
	assert.Equal(t, Default(), c)
}

// Each key is in the example, commented out, at its default. The one rule has
// what makes it valid.
func TestExampleHasEveryKeyAtItsDefault(t *testing.T) {
	raw, err := os.ReadFile(examplePath)
	require.NoError(t, err)
	text := uncommented(string(raw))

	var generic map[string]any
	require.NoError(t, toml.Unmarshal([]byte(text), &generic))
	var got []string
	walk("", generic, func(key string) { got = append(got, key) })
	var want []string
	for key := range keys(t, "", reflect.ValueOf(*Default())) {
		want = append(want, key)
	}
	assert.ElementsMatch(t, want, got)

	c, err := parse("example", []byte(text))
	require.NoError(t, err)
	assert.Len(t, c.Routing.Rules, 1)
	c.Routing.Rules = nil
	assert.Empty(t, c.LXC.AllowedAnnotations)
	c.LXC.AllowedAnnotations = nil
	assert.Equal(t, Default(), c)
}

// Every condition that a rule can have is seen by those who ask for them.
func TestConditionsAreTheKeysOfARule(t *testing.T) {
	var r Rule
	v := reflect.ValueOf(&r).Elem()
	var want []Condition
	for f, value := range v.Fields() {
		if f.Name == "Backend" {
			continue
		}
		value.SetString(f.Name)
		want = append(want, Condition{f.Tag.Get("toml"), f.Name})
	}
	assert.Equal(t, want, r.Conditions())
}

// uncommented turns `#key` into `key`; `# text` stays a comment.
func uncommented(text string) string {
	return regexp.MustCompile(`(?m)^#([a-z\[])`).ReplaceAllString(text, "$1")
}

// keys has the key of every value below v, with the value as TOML.
func keys(t *testing.T, prefix string, v reflect.Value) map[string]string {
	found := map[string]string{}
	for f, value := range v.Fields() {
		name := f.Tag.Get("toml")
		require.NotEmpty(t, name, "%s%s has no key", prefix, f.Name)
		if list := f.Type.Kind() == reflect.Slice; list && f.Type.Elem().Kind() == reflect.Struct {
			value = reflect.Zero(f.Type.Elem())
		}
		if value.Kind() == reflect.Struct {
			for key, def := range keys(t, prefix+name+".", value) {
				found[key] = def
			}
			continue
		}
		found[prefix+name] = asTOML(t, value)
	}
	return found
}

func asTOML(t *testing.T, v reflect.Value) string {
	if v.Kind() == reflect.Slice && v.IsNil() {
		return "[]"
	}
	line, err := toml.Marshal(map[string]any{"x": v.Interface()})
	require.NoError(t, err)
	text := strings.TrimSpace(strings.TrimPrefix(string(line), "x = "))
	return strings.ReplaceAll(text, "'", `"`)
}

func walk(prefix string, table map[string]any, found func(key string)) {
	for name, value := range table {
		switch value := value.(type) {
		case map[string]any:
			walk(prefix+name+".", value, found)
		case []any:
			if len(value) == 0 {
				found(prefix + name)
				continue
			}
			for _, v := range value {
				walk(prefix+name+".", v.(map[string]any), found)
			}
		default:
			found(prefix + name)
		}
	}
}
