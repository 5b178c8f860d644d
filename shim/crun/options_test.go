package crun

import (
	"testing"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestOptionsBecomeThoseOfTheRuncShim(t *testing.T) {
	configured := Options{Binary: "crun", Root: "/run/engine", SystemdCgroup: false}
	mine := &options.Options{Root: "/run/mine", SystemdCgroup: true, IoUid: 7, IoGid: 8, ShimCgroup: "/c", NoNewKeyring: true}
	named := &options.Options{BinaryName: "/opt/runc"}
	for name, tc := range map[string]struct {
		given  proto.Message
		cgroup string
		want   *options.Options
	}{
		"none":                      {nil, "/a/b", &options.Options{BinaryName: "crun", Root: "/run/engine"}},
		"none, with a systemd path": {nil, "a.slice:b:c", &options.Options{BinaryName: "crun", Root: "/run/engine", SystemdCgroup: true}},
		"the shim's": {
			&runtimeoptions.Options{ConfigPath: "/etc/x", TypeUrl: "y"}, "",
			&options.Options{BinaryName: "crun", Root: "/run/engine"},
		},
		"runc's":                {mine, "", &options.Options{BinaryName: "crun", Root: "/run/mine", SystemdCgroup: true, IoUid: 7, IoGid: 8, ShimCgroup: "/c", NoNewKeyring: true}},
		"runc's, with a binary": {named, "a.slice:b:c", &options.Options{BinaryName: "/opt/runc"}},
		"runc's, empty":         {&options.Options{}, "", &options.Options{BinaryName: "crun"}},
	} {
		t.Run(name, func(t *testing.T) {
			var given *anypb.Any
			if tc.given != nil {
				var err error
				given, err = typeurl.MarshalAnyToProto(tc.given)
				require.NoError(t, err)
			}
			b := &bundle{}
			b.config.Linux.CgroupsPath = tc.cgroup
			got, err := configured.forTask(given, b)
			require.NoError(t, err)
			assert.True(t, proto.Equal(tc.want, got), "%v", got)

			any, err := marshalOptions(got)
			require.NoError(t, err)
			back, err := typeurl.UnmarshalAny(any)
			require.NoError(t, err)
			assert.IsType(t, &options.Options{}, back, "containerd's service panics on any other type")
		})
	}
}

func TestOptionsOfAnotherTypeAreRefused(t *testing.T) {
	other, err := typeurl.MarshalAnyToProto(&eventtypes.TaskOOM{})
	require.NoError(t, err)
	for _, any := range []*anypb.Any{other, {TypeUrl: "example.com/unknown"}, {TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}} {
		_, err := (&Options{}).forTask(any, &bundle{})
		assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		assert.ErrorContains(t, err, "runtime options: ")
	}
	_, err = (&Options{}).forTask(nil, &bundle{})
	assert.NoError(t, err)
}

func TestAFileOfStdoutTakesStderrToo(t *testing.T) {
	for _, tc := range []struct {
		terminal             bool
		stdout, stderr, want string
	}{
		{false, "file:///a", "", "file:///a"},
		{false, "file:///a", "file:///b", "file:///b"},
		{true, "file:///a", "", ""},
		{false, "/fifo", "", ""},
		{false, "binary:///logger", "", ""},
		{false, "", "", ""},
	} {
		assert.Equal(t, tc.want, stderrOf(tc.terminal, tc.stdout, tc.stderr), "%+v", tc)
	}
}
