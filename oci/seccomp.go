package oci

import (
	"errors"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/seccomp"
)

func translateSeccomp(in input, p *Plan) error {
	p.Seccomp = in.linux.Seccomp
	program, flags, err := seccomp.Compile(p.Seccomp, runtime.GOARCH)
	var bad *seccomp.Error
	if errors.As(err, &bad) {
		return &FieldError{Path: join("linux.seccomp", bad.Path), Value: bad.Value, Reason: bad.Reason, kind: bad.Unwrap()}
	}
	if err != nil || program == nil {
		return err
	}
	p.Filter = &Filter{Program: program, Flags: flags}
	if flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
		p.Filter.ListenerPath, p.Filter.ListenerMetadata = p.Seccomp.ListenerPath, p.Seccomp.ListenerMetadata
		return checkListenerPath(p.Filter.ListenerPath)
	}
	return nil
}

// maxSocketPath is the longest path of a socket (unix(7)).
const maxSocketPath = 107

func checkListenerPath(value string) error {
	const path = "linux.seccomp.listenerPath"
	switch {
	case !filepath.IsAbs(value):
		return invalid(path, value, "is not an absolute path")
	case len(value) > maxSocketPath:
		return invalid(path, value, "is longer than %d bytes", maxSocketPath)
	}
	return noNUL(path, value)
}
