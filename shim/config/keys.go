package config

import (
	"reflect"
	"strings"
)

// known finds the innermost table on the way to an unknown key, and the keys
// that this table has.
func known(key []string) (table string, keys []string) {
	t, depth := reflect.TypeFor[Config](), 0
	for _, name := range key {
		next, ok := tableOf(t, name)
		if !ok {
			break
		}
		t, depth = next, depth+1
	}
	table = "the top level"
	if depth > 0 {
		table = "[" + strings.Join(key[:depth], ".") + "]"
	}
	for f := range t.Fields() {
		keys = append(keys, f.Tag.Get("toml"))
	}
	return table, keys
}

// tableOf is the type of the table, or of the tables, that t has by this name.
func tableOf(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range t.Fields() {
		if !strings.EqualFold(f.Tag.Get("toml"), name) {
			continue
		}
		ft := f.Type
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		return ft, ft.Kind() == reflect.Struct
	}
	return nil, false
}
