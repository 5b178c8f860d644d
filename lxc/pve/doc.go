// Package pve makes containers of a Proxmox VE node: each has a VMID, a
// configuration in the cluster's file system, and is started by Proxmox's own
// pct, so that Proxmox's UI and tools show and manage it as any CT.
//
// The configuration carries what the UI shows. Its line lxc.include names a
// file with LXC's own keys, which come last and therefore decide: LXC starts
// the helper on an empty base directory (package base) and never meets the
// image, as on plain LXC. What happens afterwards (limits, exec, signals,
// figures) goes past pct, which takes 0.6 s for each call.
//
// The root file system is a directory, containerd's snapshot, or a volume of one
// of Proxmox's storages (Volumes), which outlives the container's task.
//
// It knows pct, pvesh and the files under /etc/pve; nothing of containerd and
// its RPCs.
package pve
