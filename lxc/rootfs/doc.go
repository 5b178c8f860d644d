// Package rootfs makes a container's file system, from outside.
//
// LXC starts a container on an empty base directory. While the helper, its
// PID 1, waits there, Build joins the container's mount namespace with a
// thread of the shim, attaches the real root, makes in it whatever the plan
// of the bundle says (mounts, device nodes, masks), and swaps the roots
// with pivot_root(2), which takes the waiting helper along. Nothing of the
// base is left then. The host's mounts are never changed.
//
// An image is hostile until proven otherwise: each path in it is resolved
// below the new root (openat2(2) with RESOLVE_IN_ROOT, no magic links), and
// whatever is done then is done to a descriptor, so that a path that changes
// meanwhile leads nowhere else.
//
// The package is for the LXC backend. It starts no process, does not know
// LXC, and does not read the bundle: package oci did, and validated it. It
// needs Linux 5.12 (mount_setattr(2)).
//
// In a container with a user namespace the host's root is nobody: its thread
// creates files as the root of that namespace, without losing capabilities.
// A file system is the namespace's if its context was opened there.
package rootfs
