package oci

import (
	"errors"
	"runtime"

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
	return nil
}
