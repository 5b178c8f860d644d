package oci

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// checkLabels refuses what would be another command to the kernel, or more
// than one option of a mount. Whether there is such a profile or label is the
// kernel's to know.
func checkLabels(p *specs.Process) error {
	if err := checkLabel("process.apparmorProfile", p.ApparmorProfile); err != nil {
		return err
	}
	return checkLabel("process.selinuxLabel", p.SelinuxLabel)
}

func checkLabel(path, label string) error {
	if strings.ContainsFunc(label, isControl) {
		return invalid(path, label, "has a control character")
	}
	if strings.TrimSpace(label) != label {
		return invalid(path, label, "has blanks around it")
	}
	return nil
}

// Where a process sets the label that it gets at execve, below a procfs.
// AppArmor has had a directory of its own since Linux 5.8; before, and for
// SELinux, it is the file that all security modules share.
const (
	AppArmorAttr = "self/attr/apparmor/exec"
	SharedAttr   = "self/attr/exec"
)

// labelOps have the process change its label when the program is executed. It
// must be done before no_new_privs: AppArmor allows the change under it only
// to a process that was unconfined.
func labelOps(p *specs.Process, o ProcessOptions) (ops []initop.Op) {
	if p.ApparmorProfile != "" {
		ops = append(ops, initop.WriteAt(o.Procfs, o.AppArmorAttr, "exec "+p.ApparmorProfile).Of("process.apparmorProfile"))
	}
	if p.SelinuxLabel != "" {
		ops = append(ops, initop.WriteAt(o.Procfs, SharedAttr, p.SelinuxLabel).Of("process.selinuxLabel"))
	}
	return ops
}

// unlabelled are file systems that have labels of their own for each file.
var unlabelled = []string{"sysfs", "mqueue"}

// translateMountLabel gives linux.mountLabel to the file systems that are made
// for the container, as runc does: not to bind mounts, and not to those whose
// spec has a context already.
func translateMountLabel(in input, p *Plan) error {
	label := in.linux.MountLabel
	if err := checkLabel("linux.mountLabel", label); err != nil {
		return err
	}
	p.MountLabel = label
	for i := range p.Mounts {
		m := &p.Mounts[i]
		hasOne := slices.ContainsFunc(m.Data, func(o FSOption) bool { return o.Key == "context" })
		if label != "" && m.Kind == MountFS && !slices.Contains(unlabelled, m.Type) && !hasOne {
			m.Data = append(m.Data, FSOption{Key: "context", Value: label})
		}
	}
	return nil
}
