package task

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
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
	got, err := pveSettings(&c, map[string]string{
		config.AnnotationVMID: "4711", config.AnnotationPVETags: "b;c", config.AnnotationPVEFeatures: "nesting=1", config.AnnotationPVEOnBoot: "0",
	})
	require.NoError(t, err)
	assert.Equal(t, pve.Settings{VMID: 4711, Range: pve.Range{Min: 900000, Max: 999999}, Tags: []string{"a", "b", "c"}, Features: "nesting=1"}, got)
	got, err = pveSettings(&c, nil)
	require.NoError(t, err)
	assert.Equal(t, pve.Settings{Range: pve.Range{Min: 900000, Max: 999999}, Tags: []string{"a"}, OnBoot: true}, got)
}

func TestAnAnnotationOfACTThatIsWrongIsNamed(t *testing.T) {
	for name, value := range map[string]string{
		config.AnnotationVMID: "99", config.AnnotationPVETags: "a,B", config.AnnotationPVEFeatures: "nesting", config.AnnotationPVEOnBoot: "yes",
	} {
		_, err := pveSettings(&config.Default().LXC.PVE, map[string]string{name: value})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
		assert.ErrorContains(t, err, "annotation "+name)
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
