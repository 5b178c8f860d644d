package oci

import (
	"slices"
	"strings"
)

// reservedClasses are directories that every resctrl has.
var reservedClasses = []string{".", "..", "info", "mon_groups", "mon_data"}

// translateIntelRdt checks what goes to files of resctrl. Whether the machine
// has one is not known here.
func translateIntelRdt(in input, p *Plan) error {
	r := in.linux.IntelRdt
	if r == nil {
		return nil
	}
	const path = "linux.intelRdt"
	if c := r.ClosID; c != "" && c != "/" && (!isName(c) || slices.Contains(reservedClasses, c)) {
		return invalid(path+".closID", c, "is not the name of a class of service")
	}
	if err := checkSchema(path+".l3CacheSchema", r.L3CacheSchema, "L3"); err != nil {
		return err
	}
	if err := checkSchema(path+".memBwSchema", r.MemBwSchema, "MB:"); err != nil {
		return err
	}
	for i, s := range r.Schemata {
		if s == "" {
			return invalid(at(path+".schemata", i), nil, "is empty")
		}
		if err := checkSchema(at(path+".schemata", i), s, ""); err != nil {
			return err
		}
	}
	p.IntelRdt = r
	return nil
}

// checkSchema wants one line of schemata, of one resource.
func checkSchema(path, schema, prefix string) error {
	switch {
	case schema == "":
		return nil
	case strings.ContainsFunc(schema, isControl):
		return invalid(path, schema, "is more than one line, or has control characters")
	case !strings.HasPrefix(schema, prefix) || !strings.Contains(schema, ":"):
		return invalid(path, schema, "is not of the form %s", strings.TrimSuffix(prefix, ":")+":<id>=<value>;…")
	}
	return nil
}
