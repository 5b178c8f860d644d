// Package rpcerr turns an error into the answer of an RPC: a class of errdefs
// and one line. The library's own mapping sends every further class that an
// error wraps, and clients print each on a line of its own.
package rpcerr

import (
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// line is an error of one class.
type line struct {
	text  string
	class error
}

func (l *line) Error() string { return l.text }

func (l *line) Unwrap() error { return l.class }

// ToGRPC returns the gRPC status of an error; one that is a status already
// stays as it is.
func ToGRPC(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	text := strings.ReplaceAll(strings.TrimRight(err.Error(), "\n"), "\n", "; ")
	return errgrpc.ToGRPC(&line{text, errdefs.Resolve(err)})
}

// OfCreate is the answer of Create to an error that is a status already. What
// is refused there is an invalid argument, also if it is not implemented: that
// class containerd 2.x takes for a shim that does not know this version of the
// task API, and asks again in the older one.
func OfCreate(err error) error {
	if status.Code(err) != codes.Unimplemented {
		return err
	}
	return ToGRPC(&line{status.Convert(err).Message(), errdefs.ErrInvalidArgument})
}
