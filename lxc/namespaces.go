package lxc

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// namespaceFlags are the types as ioctl_ns(2) has them.
var namespaceFlags = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// checkNamespaces finds that what is to be joined is there and is of its type.
// LXC would join a namespace of another one.
func checkNamespaces(plan *oci.Plan) error {
	for kind, ns := range plan.Namespaces {
		if ns.Path == "" {
			continue
		}
		if err := isNamespace(ns.Path, namespaceFlags[kind]); err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", kind, err)
		}
	}
	return nil
}

// isNamespace opens without waiting: what is at the path may be a FIFO.
func isNamespace(path string, flag int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("%s is not a namespace: %w", path, err)
	}
	if got != flag {
		return fmt.Errorf("%s is a namespace of another type", path)
	}
	return nil
}
