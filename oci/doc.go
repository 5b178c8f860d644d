// Package oci reads OCI bundles and translates their configuration for LXC.
//
// It validates config.json (runtime-spec 1.3.0) and turns it into a Plan: keys
// of an LXC configuration, steps that are done from outside while the helper
// waits, and the operations that make the helper the user's process. All of it
// is a pure function of the spec; the only I/O is reading the bundle. What
// can not be translated is refused with its JSON path, never left out.
package oci
