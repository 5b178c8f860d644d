package shim

import (
	"flag"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCommandLinesOfContainerd(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want command
	}{
		"start, by 2.4": {
			[]string{"-namespace", "ns", "-id", "c1", "-address", "/run/c.sock", "-publish-binary", "/usr/bin/containerd", "start"},
			command{namespace: "ns", id: "c1", address: "/run/c.sock", verb: "start"},
		},
		"start at debug level, by 1.6": {
			[]string{"-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "containerd", "-id", "c1", "-debug", "start"},
			command{namespace: "ns", id: "c1", address: "/run/c.sock", debug: true, verb: "start"},
		},
		"delete": {
			[]string{"-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "containerd", "-id", "c1", "-bundle", "/b", "delete"},
			command{namespace: "ns", id: "c1", address: "/run/c.sock", bundle: "/b", verb: "delete"},
		},
		"an empty value": {
			[]string{"-namespace", "ns", "-address", "", "-publish-binary", "", "-id", "c1", "delete"},
			command{namespace: "ns", id: "c1", verb: "delete"},
		},
		"the server": {
			[]string{"-namespace", "ns", "-id", "c1", "-address", "/run/c.sock"},
			command{namespace: "ns", id: "c1", address: "/run/c.sock"},
		},
		"the server with a socket": {
			[]string{"-namespace=ns", "--id=c1", "-socket", "/s", "-debug-socket", "/d"},
			command{namespace: "ns", id: "c1", socket: "/s"},
		},
		"-v":       {[]string{"-v"}, command{version: true}},
		"-version": {[]string{"-version"}, command{version: true}},
		"-info":    {[]string{"-info"}, command{info: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tc.args)
			require.NoError(t, err)
			assert.Equal(t, tc.want, *got)
		})
	}
}

func TestHelpNamesWhatOperatorsRun(t *testing.T) {
	_, err := parse([]string{"-h"})
	assert.ErrorIs(t, err, flag.ErrHelp)
	var out strings.Builder
	f := flag.NewFlagSet("containerd-shim-nexcage-v2", flag.ContinueOnError)
	f.SetOutput(&out)
	usage(f)
	for _, want := range []string{"containerd-shim-nexcage-v2 gc [-templates]", "containerd-shim-nexcage-v2 templates"} {
		assert.Contains(t, out.String(), want)
	}
}

func TestAnUnknownFlagIsAnError(t *testing.T) {
	for _, args := range [][]string{{"-colour", "red", "start"}, {"-id"}, {"-debug=perhaps"}} {
		_, err := parse(args)
		assert.Error(t, err, "%q", args)
	}
}

func TestWhatContainerdAlwaysGivesIsRequired(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no namespace":    {[]string{"-id", "c1", "start"}, "-namespace is required"},
		"no id":           {[]string{"-namespace", "ns", "delete"}, "-id is required"},
		"an unknown verb": {[]string{"-namespace", "ns", "-id", "c1", "stop"}, `verb "stop" is not one of start, delete`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parse(tc.args)
			require.NoError(t, err)
			err = c.run(t.Context())
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}
