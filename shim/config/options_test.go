package config

import (
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestRuntimeOptionsReplaceTheFileAsAWhole(t *testing.T) {
	file := write(t, "state_dir = '/file'\n[log]\nlevel = 'debug'")
	other := write(t, "state_dir = '/other'")
	ours := func(o *runtimeoptions.Options) typeurl.Any { return message(t, "runtimeoptions.v1.Options", o) }
	for name, tt := range map[string]struct {
		any      typeurl.Any
		stateDir string
		level    string
	}{
		"none":              {nil, "/file", "debug"},
		"none, typed":       {(*anypb.Any)(nil), "/file", "debug"},
		"without a type":    {&anypb.Any{}, "/file", "debug"},
		"empty":             {ours(&runtimeoptions.Options{}), "/file", "debug"},
		"type_url only":     {ours(&runtimeoptions.Options{TypeUrl: "x"}), "/file", "debug"},
		"config_path":       {ours(&runtimeoptions.Options{ConfigPath: other}), "/other", ""},
		"config_body":       {ours(&runtimeoptions.Options{ConfigBody: []byte("state_dir = '/body'")}), "/body", ""},
		"both: the path":    {ours(&runtimeoptions.Options{ConfigPath: other, ConfigBody: []byte("x = 1")}), "/other", ""},
		"comment as a body": {ours(&runtimeoptions.Options{ConfigBody: []byte("#")}), "/run/nexcage", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, runc, err := fromOptions(tt.any, file)
			require.NoError(t, err)
			assert.Nil(t, runc)
			assert.Equal(t, tt.stateDir, c.StateDir)
			assert.Equal(t, tt.level, c.Log.Level)
			assert.Equal(t, filepath.Join(tt.stateDir, ".lxc"), c.LXC.Native.LXCPath)
		})
	}
}

func TestRuncOptionsComeWithTheFile(t *testing.T) {
	file := write(t, "state_dir = '/file'")
	for _, url := range []string{"containerd.runc.v1.Options", "type.googleapis.com/containerd.runc.v1.Options"} {
		c, runc, err := fromOptions(message(t, url, &options.Options{IoUid: 7, BinaryName: "x"}), file)
		require.NoError(t, err)
		assert.Equal(t, "/file", c.StateDir)
		assert.EqualValues(t, 7, runc.GetIoUid())
		assert.Equal(t, "x", runc.GetBinaryName())
	}
}

// The bytes are what clients of containerd 1.7 send.
func TestLegacyOptionsAreRuncOptions(t *testing.T) {
	file := write(t, "state_dir = '/file'")
	for name, tt := range map[string]struct {
		value []byte
		want  *options.Options
	}{
		"empty":         {nil, &options.Options{}},
		"owner":         {[]byte{0x50, 0xe0, 0xa7, 0x12, 0x58, 0x80, 0xb5, 0x18}, &options.Options{IoUid: 300000, IoGid: 400000}},
		"no pivot_root": {[]byte{0x08, 0x01, 0x40, 0x01}, &options.Options{NoPivotRoot: true, NoNewKeyring: true}},
		"strings": {[]byte{0x4a, 0x01, 'c', 0x62, 0x01, 'w', 0x6a, 0x01, 'i'},
			&options.Options{ShimCgroup: "c", CriuWorkPath: "w", CriuImagePath: "i"}},
		"not set": {[]byte{0x10, 0x00, 0x3a, 0x00}, &options.Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, url := range []string{legacyOptions, "types.containerd.io/" + legacyOptions} {
				c, runc, err := fromOptions(&anypb.Any{TypeUrl: url, Value: tt.value}, file)
				require.NoError(t, err)
				assert.Equal(t, "/file", c.StateDir)
				assert.True(t, proto.Equal(tt.want, runc), "%v", runc)
			}
		})
	}
}

func TestOptionsThatCannotBeUsedAreRefused(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.toml")
	for name, tt := range map[string]struct {
		any  typeurl.Any
		want string
	}{
		"unknown type":      {&anypb.Any{TypeUrl: "kata.Options"}, "kata.Options"},
		"known, other type": {message(t, "google.protobuf.Any", &anypb.Any{}), "google.protobuf.Any"},
		"malformed":         {&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}, "runtimeoptions.v1.Options"},
		"legacy, open_tcp":  {&anypb.Any{TypeUrl: legacyOptions, Value: []byte{0x10, 0x01}}, "open_tcp is not understood"},
		"legacy, namespace": {&anypb.Any{TypeUrl: legacyOptions, Value: []byte{0x32, 0x01, 'n'}}, "empty_namespaces is not understood"},
		"legacy, unknown":   {&anypb.Any{TypeUrl: legacyOptions, Value: []byte{0x78, 0x01}}, "field 15 is not understood"},
		"legacy, cut off":   {&anypb.Any{TypeUrl: legacyOptions, Value: []byte{0x50, 0x80}}, legacyOptions},
		"legacy, malformed": {&anypb.Any{TypeUrl: legacyOptions, Value: []byte{0x55, 0, 0, 0, 0}}, legacyOptions},
		"missing file":      {message(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigPath: none}), none},
		"relative file":     {message(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigPath: "x.toml"}), `config_path "x.toml" is not absolute`},
		"unknown key in the body": {message(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = true")}),
			"configuration in the runtime options: line 1: SystemdCgroup: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := fromOptions(tt.any, none)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestABadFileIsReportedWithRuncOptionsToo(t *testing.T) {
	_, _, err := fromOptions(message(t, "containerd.runc.v1.Options", &options.Options{}), write(t, "x = 1"))
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// message is what containerd sends: the URL is literal here, because it is
// what the packages must have registered.
func message(t *testing.T, url string, m proto.Message) typeurl.Any {
	value, err := proto.Marshal(m)
	require.NoError(t, err)
	return &anypb.Any{TypeUrl: url, Value: value}
}
