package seccomp

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAListenerIsAskedForWhereThereIsSomethingToHear(t *testing.T) {
	const listen, killable = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, 1 << 5
	for name, tc := range map[string]struct {
		profile string
		want    uint32
	}{
		"no action": {`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","flags":[]}`, 0},
		"an action": {
			`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","flags":[],"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`, listen,
		},
		"and other flags": {
			`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
			  "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`, listen | killable | unix.SECCOMP_FILTER_FLAG_LOG,
		},
		"a flag about listeners without one": {`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			program, flags, err := Compile(parse(t, tc.profile), "amd64")
			require.NoError(t, err)
			assert.NotEmpty(t, program)
			assert.Equal(t, tc.want, flags)
		})
	}
}
