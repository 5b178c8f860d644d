package bootstrap

import (
	"os"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

var flags = Params{ID: "c1", Namespace: "ns", Address: "/a.sock", TTRPCAddress: "/a.sock.ttrpc"}

func marshal(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

// legacy is what containerd before 2.3 writes: its options as an Any.
func legacy(t testing.TB, v proto.Message) []byte {
	any, err := typeurl.MarshalAnyToProto(v)
	require.NoError(t, err)
	return marshal(t, any)
}

// params are those of a newer one, for the container of the flags.
func params(t testing.TB, change func(*bootapi.BootstrapParams), opts ...proto.Message) []byte {
	p := &bootapi.BootstrapParams{InstanceID: flags.ID, Namespace: flags.Namespace}
	if change != nil {
		change(p)
	}
	for _, o := range opts {
		require.NoError(t, p.AddExtension(o))
	}
	return marshal(t, p)
}

func TestTheFormOfTheAnswerIsThatOfTheQuestion(t *testing.T) {
	for name, tt := range map[string]struct {
		input    []byte
		protobuf bool
	}{
		"nothing":                  {nil, false},
		"runc options":             {legacy(t, &options.Options{Root: "/r"}), false},
		"runtime options":          {legacy(t, &runtimeoptions.Options{ConfigBody: []byte("x")}), false},
		"empty options":            {legacy(t, &options.Options{}), false},
		"parameters":               {params(t, nil), true},
		"parameters and options":   {params(t, nil, &options.Options{Root: "/r"}), true},
		"for another id":           {params(t, func(p *bootapi.BootstrapParams) { p.InstanceID = "c2" }), false},
		"for another namespace":    {params(t, func(p *bootapi.BootstrapParams) { p.Namespace = "x" }), false},
		"without an id altogether": {marshal(t, &bootapi.BootstrapParams{ContainerdVersion: "2.4.2"}), false},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(flags, tt.input)
			require.NoError(t, err)
			answer, err := r.answer("unix:///s")
			require.NoError(t, err)
			if !tt.protobuf {
				assert.Equal(t, "unix:///s", string(answer))
				return
			}
			var got bootapi.BootstrapResult
			require.NoError(t, proto.Unmarshal(answer, &got))
			assert.True(t, proto.Equal(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"}, &got), &got)
		})
	}
}

func TestWhatContainerdAsksForIsUnderstood(t *testing.T) {
	dir := "/run/s"
	level := func(l bootapi.LogLevel) []byte {
		return params(t, func(p *bootapi.BootstrapParams) { p.LogLevel = l })
	}
	for name, tt := range map[string]struct {
		input []byte
		want  request
		group string // shim_cgroup
	}{
		"nothing":           {nil, request{Params: flags}, ""},
		"legacy cgroup":     {legacy(t, &options.Options{ShimCgroup: "/x"}), request{Params: flags}, "/x"},
		"cgroup":            {params(t, nil, &options.Options{ShimCgroup: "/x"}), request{Params: flags}, "/x"},
		"options of others": {params(t, nil, &runtimeoptions.Options{ConfigPath: "/x"}), request{Params: flags}, ""},
		"socket directory": {params(t, func(p *bootapi.BootstrapParams) { p.SocketDir = &dir }),
			request{Params: flags, socketDir: dir}, ""},
		"addresses": {params(t, func(p *bootapi.BootstrapParams) {
			p.ContainerdGrpcAddress, p.ContainerdTtrpcAddress = "/b", "/b.ttrpc"
		}), request{Params: Params{ID: "c1", Namespace: "ns", Address: "/b", TTRPCAddress: "/b.ttrpc"}}, ""},
		"trace": {level(bootapi.LogLevel_LOG_LEVEL_TRACE), request{Params: debugging()}, ""},
		"debug": {level(bootapi.LogLevel_LOG_LEVEL_DEBUG), request{Params: debugging()}, ""},
		"warn":  {level(bootapi.LogLevel_LOG_LEVEL_WARN), request{Params: flags}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(flags, tt.input)
			require.NoError(t, err)
			assert.Equal(t, tt.group, r.runc.GetShimCgroup())
			r.answer, r.runc = nil, nil
			assert.Equal(t, &tt.want, r)
		})
	}
}

func debugging() Params { p := flags; p.Debug = true; return p }

func TestInputThatIsNoneIsRefused(t *testing.T) {
	bad, err := typeurl.MarshalAnyToProto(&options.Options{})
	require.NoError(t, err)
	bad.Value = []byte{0xff}
	for name, input := range map[string][]byte{
		"not protobuf": []byte("\xff\xff"),
		"JSON":         []byte(`{"id": "c1"}`),
		"bad options":  marshal(t, bad),
		"bad options, as an extension": params(t, func(p *bootapi.BootstrapParams) {
			p.Extensions = []*bootapi.Extension{{Value: bad}}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(flags, input)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

// The protobuf answer is given to whoever named the container of the flags in
// it, and to nobody else.
func FuzzParse(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(params(f, nil, &options.Options{ShimCgroup: "/x"}))
	f.Add(legacy(f, &options.Options{Root: "/r"}))
	f.Add(legacy(f, &runtimeoptions.Options{TypeUrl: "c1"}))
	f.Add([]byte("\n\x02c1\x12\x02ns"))
	f.Fuzz(func(t *testing.T, input []byte) {
		r, err := parse(flags, input)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		answer, err := r.answer("unix:///s")
		require.NoError(t, err)
		var p bootapi.BootstrapParams
		named := proto.Unmarshal(input, &p) == nil && p.InstanceID == "c1" && p.Namespace == "ns"
		assert.Equal(t, named, string(answer) != "unix:///s")
	})
}

func TestGroupOfAContainer(t *testing.T) {
	const ours, runcs, pods = "io.containerd.nexcage.v2.group", "io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"
	for name, tt := range map[string]struct {
		config *string
		want   string
	}{
		"no bundle":      {nil, "c1"},
		"empty":          {ptr(""), "c1"},
		"no annotations": {ptr(`{"ociVersion": "1.1.0"}`), "c1"},
		"null":           {ptr(`{"annotations": null}`), "c1"},
		"others":         {ptr(`{"annotations": {"a": "b"}}`), "c1"},
		"pod":            {ptr(`{"annotations": {"` + pods + `": "p"}}`), "p"},
		"runc's group":   {ptr(`{"annotations": {"` + pods + `": "p", "` + runcs + `": "r"}}`), "r"},
		"our group":      {ptr(`{"annotations": {"` + pods + `": "p", "` + runcs + `": "r", "` + ours + `": "n"}}`), "n"},
		"empty group":    {ptr(`{"annotations": {"` + ours + `": "", "` + pods + `": "p"}}`), "p"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tt.config != nil {
				require.NoError(t, os.WriteFile("config.json", []byte(*tt.config), 0o600))
			}
			got, err := groupOf("c1")
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestABrokenBundleHasNoGroup(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("config.json", []byte(`{"annotations": 1}`), 0o600))
	_, err := groupOf("c1")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.ErrorContains(t, err, "config.json: ")
}

func ptr(s string) *string { return &s }
