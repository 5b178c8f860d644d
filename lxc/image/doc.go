// Package image finds the image beneath a container's snapshot, by the mounts
// that containerd gives for it: its layers, what they can be known again by,
// and their tree as a tar stream.
//
// It is for who copies an image elsewhere, as to a volume of Proxmox. It knows
// overlays only, since the mounts of other snapshotters tell no layers, and
// asks containerd nothing.
package image
