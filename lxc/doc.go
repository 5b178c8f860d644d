// Package lxc runs one OCI container as an LXC container, from create to
// delete: it is what a runtime binary like runc is for the runc shim, but in
// the shim's own process. It knows pidfds, control groups, stdio and the
// helper, and nothing of containerd's RPCs: errors are of the errdefs classes
// where clients decide by class, and events are the caller's.
package lxc
