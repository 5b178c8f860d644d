package task

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/lxc"
	"github.com/cageforge/containerd-shim-nexcage/lxc/pve"
	"github.com/cageforge/containerd-shim-nexcage/shim/config"
	"github.com/cageforge/containerd-shim-nexcage/shim/state"
)

func TestSettingsOfACTFollowItsAnnotations(t *testing.T) {
	c := config.Default().LXC.PVE
	c.Tags, c.OnBoot = []string{"a"}, true
	got, err := pveSettings(&c, &specs.Spec{Annotations: map[string]string{
		config.AnnotationVMID: "4711", config.AnnotationPVETags: "b;c", config.AnnotationPVEFeatures: "nesting=1", config.AnnotationPVEOnBoot: "0",
		config.AnnotationRootfs: "volume", config.AnnotationPVEStorage: "local-zfs", config.AnnotationPVESize: "16",
	}})
	require.NoError(t, err)
	assert.Equal(t, pve.Settings{VMID: 4711, Range: pve.Range{Min: 900000, Max: 999999}, Tags: []string{"a", "b", "c"}, Features: "nesting=1",
		Root: pve.Root{Volume: true, Explicit: true, Storage: "local-zfs", GiB: 16}}, got)
	got, err = pveSettings(&c, &specs.Spec{})
	require.NoError(t, err)
	assert.Equal(t, pve.Settings{Range: pve.Range{Min: 900000, Max: 999999}, Tags: []string{"a"}, OnBoot: true, Root: pve.Root{GiB: 8}}, got)
	c.Rootfs, c.Storage = "volume", "local"
	got, err = pveSettings(&c, &specs.Spec{})
	require.NoError(t, err)
	assert.Equal(t, pve.Root{Volume: true, Storage: "local", GiB: 8}, got.Root)
	got, err = pveSettings(&c, &specs.Spec{Annotations: map[string]string{config.AnnotationRootfs: "snapshot"}})
	require.NoError(t, err)
	assert.False(t, got.Root.Volume)
}

func TestAnAnnotationOfACTThatIsWrongIsNamed(t *testing.T) {
	for name, value := range map[string]string{
		config.AnnotationVMID: "99", config.AnnotationPVETags: "a,B", config.AnnotationPVEFeatures: "nesting", config.AnnotationPVEOnBoot: "yes",
		config.PVENet(0): "bridge", config.PVENet(31): "",
		config.AnnotationRootfs: "disk", config.AnnotationPVEStorage: "a:b", config.AnnotationPVESize: "0",
	} {
		_, err := pveSettings(&config.Default().LXC.PVE, &specs.Spec{Annotations: map[string]string{name: value}})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
		assert.ErrorContains(t, err, "annotation "+name)
	}
}

func TestConfiguredInterfacesAreForANewNetworkNamespace(t *testing.T) {
	c := config.Default().LXC.PVE
	c.Nets = []string{"bridge=vmbr1", "bridge=vmbr2"}
	network := func(path string) *specs.Linux {
		return &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: path}}}
	}
	for name, tc := range map[string]struct {
		spec specs.Spec
		want []int
	}{
		"new":                  {specs.Spec{Linux: network("")}, []int{0, 1}},
		"joined":               {specs.Spec{Linux: network("/run/netns/cni")}, nil},
		"the host's":           {specs.Spec{Linux: &specs.Linux{}}, nil},
		"one more":             {specs.Spec{Linux: network(""), Annotations: map[string]string{config.PVENet(5): "tag=2"}}, []int{0, 1, 5}},
		"annotation, joined":   {specs.Spec{Linux: network("/x"), Annotations: map[string]string{config.PVENet(5): "tag=2"}}, []int{5}},
		"one in place of that": {specs.Spec{Linux: network(""), Annotations: map[string]string{config.PVENet(0): "tag=2"}}, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			nets, err := pveNets(&c, &tc.spec)
			require.NoError(t, err)
			var got []int
			for _, n := range nets {
				got = append(got, n.Index)
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestAnnotationsOfProxmoxAreRefusedOnPlainLXC(t *testing.T) {
	err := refuseOnNative(map[string]string{config.AnnotationVMID: "4711"})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	assert.ErrorContains(t, err, config.AnnotationVMID)
	assert.NoError(t, refuseOnNative(map[string]string{config.AnnotationBackend: "lxc"}))
}

func TestTheStopSignalOfTheImageIsLXCs(t *testing.T) {
	for in, want := range map[string]string{
		"": "SIGTERM", "SIGQUIT": "SIGQUIT", "quit": "SIGQUIT", "3": "3", "SIGRTMIN+3": "SIGRTMIN+3", "RTMIN+3": "SIGRTMIN+3",
		"0": "SIGTERM", "65": "SIGTERM", "SIGNONE": "SIGTERM", "15\nlxc.x = y": "SIGTERM",
	} {
		assert.Equal(t, want, haltSignal(in), in)
	}
}

func TestACTIsInUseWhileContainerdKnowsItsContainer(t *testing.T) {
	e := newEntry(t, nil, "c1", nil)
	require.NoError(t, e.update(func(st *state.State) { st.LXC, st.VMID = &lxc.Record{VMID: 900000}, 900000 }))
	assert.True(t, inUse(string(e.dir), 900000))
	assert.False(t, inUse(string(e.dir), 900001), "it has another by now")
	require.NoError(t, os.RemoveAll(e.state.Bundle))
	assert.False(t, inUse(string(e.dir), 900000))
	assert.False(t, inUse(t.TempDir(), 900000), "no record")
	require.NoError(t, os.WriteFile(string(e.dir)+"/state.json", []byte("{"), 0o600))
	assert.True(t, inUse(string(e.dir), 900000), "what can not be read is left alone")
}
