package oci

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// propagations are the values of linux.rootfsPropagation and the mount
// options of the same meaning.
var propagations = map[string]uint64{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"slave":       unix.MS_SLAVE,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"unbindable":  unix.MS_UNBINDABLE,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

func translateRoot(in input, p *Plan) error {
	root := in.spec.Root
	switch {
	case root == nil:
		return invalid("root", nil, "is required")
	case root.Path == "":
		return invalid("root.path", nil, "is required")
	}
	if err := noNUL("root.path", root.Path); err != nil {
		return err
	}
	p.Root = Root{Path: in.fromBundle(root.Path), Readonly: root.Readonly}
	return translatePropagation(in, p)
}

func translatePropagation(in input, p *Plan) error {
	value := in.linux.RootfsPropagation
	if value == "" {
		return nil
	}
	flags, ok := propagations[value]
	if !ok {
		return notOneOf("linux.rootfsPropagation", value, sortedKeys(propagations))
	}
	p.Root.Propagation = flags
	return nil
}

// fromBundle makes a path of the host absolute.
func (in input) fromBundle(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(in.bundle, path)
}
