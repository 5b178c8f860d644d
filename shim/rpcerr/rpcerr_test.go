package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/stretchr/testify/assert"
)

func TestAClientSeesOneLineAndItsClass(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		text  string
		class error
	}{
		"of no class":      {errors.New("broken"), "broken", errdefs.ErrUnknown},
		"a class":          {fmt.Errorf("CT 1: %w", errdefs.ErrNotFound), "CT 1: not found", errdefs.ErrNotFound},
		"with its cause":   {fmt.Errorf("no quorum: %w: %w", fs.ErrPermission, errdefs.ErrUnavailable), "no quorum: permission denied: unavailable", errdefs.ErrUnavailable},
		"joined":           {errors.Join(fmt.Errorf("a: %w", errdefs.ErrUnavailable), errors.New("b")), "a: unavailable; b", errdefs.ErrUnavailable},
		"of a deadline":    {fmt.Errorf("slow: %w", context.DeadlineExceeded), "slow: context deadline exceeded", context.DeadlineExceeded},
		"mapped already":   {errgrpc.ToGRPC(fmt.Errorf("x: %w", errdefs.ErrAlreadyExists)), "x: already exists", errdefs.ErrAlreadyExists},
		"with a blank end": {fmt.Errorf("hook: exit status 1: text\n"), "hook: exit status 1: text", errdefs.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			answer := ToGRPC(tc.err)
			seen := errgrpc.ToNative(answer)
			for range 2 { // containerd hands it on
				assert.ErrorIs(t, seen, tc.class)
				assert.Equal(t, tc.text, seen.Error())
				seen = errgrpc.ToNative(errgrpc.ToGRPC(seen))
			}
		})
	}
	assert.NoError(t, ToGRPC(nil))
}

func TestWhatCreateRefusesIsNoCallThatIsNotImplemented(t *testing.T) {
	refused := OfCreate(ToGRPC(fmt.Errorf("linux.x: this kernel has none: %w", errdefs.ErrNotImplemented)))
	native := errgrpc.ToNative(refused)
	assert.ErrorIs(t, native, errdefs.ErrInvalidArgument)
	assert.NotErrorIs(t, native, errdefs.ErrNotImplemented)
	assert.Equal(t, "linux.x: this kernel has none: not implemented", native.Error())

	for _, err := range []error{ToGRPC(fmt.Errorf("x: %w", errdefs.ErrNotFound)), ToGRPC(errors.New("x"))} {
		assert.Equal(t, err, OfCreate(err))
	}
	assert.NoError(t, OfCreate(nil))
}
