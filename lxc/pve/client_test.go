package pve

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Messages as the genuine pct prints them.
func TestErrorsOfPctTellTheirClassInOneLine(t *testing.T) {
	const parameter = "400 Parameter verification failed.\nvmid: type check ('integer') failed - got 'abc'\npct status <vmid> [OPTIONS]\n"
	for name, tc := range map[string]struct {
		answer answer
		class  error
		want   string
	}{
		"no CT": {answer{Stderr: "Configuration file 'nodes/vm/lxc/7101.conf' does not exist\n", Code: 255}, errdefs.ErrNotFound,
			"pct start 7101: exit status 255: Configuration file 'nodes/vm/lxc/7101.conf' does not exist"},
		"runs already":                 {answer{Stderr: "CT 7101 already running\n", Code: 255}, errdefs.ErrAlreadyExists, ""},
		"there is one":                 {answer{Stderr: "CT 7101 already exists on node 'vm'\n", Code: 2}, errdefs.ErrAlreadyExists, ""},
		"locked":                       {answer{Stderr: "CT is locked (backup)\n", Code: 255}, errdefs.ErrUnavailable, ""},
		"no quorum":                    {answer{Stderr: "cluster not ready - no quorum?\n", Code: 255}, errdefs.ErrUnavailable, ""},
		"pmxcfs is down":               {answer{Stderr: "ipcc_send_rec[1] failed: Connection refused\nUnable to load access control list: Connection refused\n", Code: 111}, errdefs.ErrUnavailable, ""},
		"lock timeout":                 {answer{Stderr: "trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-7101.lock' - got timeout\n", Code: 255}, errdefs.ErrUnavailable, "pct start 7101: exit status 255: can't lock file '/run/lock/lxc/pve-config-7101.lock' - got timeout"},
		"lock timeout of set":          {answer{Stderr: "trying to acquire lock...can't lock file '/x' - got timeout\n", Code: 4}, errdefs.ErrUnavailable, "pct start 7101: exit status 4: can't lock file '/x' - got timeout"},
		"lock timeout after a warning": {answer{Stderr: "WARN: a trying to acquire lock...can't lock file '/x' - got timeout\n", Code: 4}, errdefs.ErrUnavailable, "pct start 7101: exit status 4: WARN: a can't lock file '/x' - got timeout"},
		"waited for the lock":          {answer{Stderr: "trying to acquire lock... OK\nCT 7101 already running\n", Code: 255}, errdefs.ErrAlreadyExists, "pct start 7101: exit status 255: CT 7101 already running"},
		"parameters":                   {answer{Stderr: parameter, Code: 2}, errdefs.ErrInvalidArgument, "pct start 7101: exit status 2: 400 Parameter verification failed.; vmid: type check ('integer') failed - got 'abc'"},
		"storage is full":              {answer{Stderr: "unable to create CT 7101 - no space: No space left on device\n", Code: 255}, errdefs.ErrResourceExhausted, ""},
		"not root":                     {answer{Stderr: "please run as root\n", Code: 255}, errdefs.ErrPermissionDenied, ""},
		"no such directory":            {answer{Stderr: "unable to create CT 7102 - directory '/nonexistdir' does not exist\n", Code: 255}, errdefs.ErrNotFound, ""},
		"ended at once":                {answer{Stderr: "unable to get PID for CT 7101 (not running?)\n", Code: 255}, errdefs.ErrFailedPrecondition, ""},
		"silent":                       {answer{Code: 255}, errdefs.ErrUnknown, "pct start 7101: exit status 255: no message"},
		"the worker's words":           {answer{Stdout: "start: 2197 No such file or directory - Failed to exec \"/x\"\n", Stderr: "startup for container '7101' failed\n", Code: 255}, errdefs.ErrUnknown, `pct start 7101: exit status 255: startup for container '7101' failed; start: 2197 No such file or directory - Failed to exec "/x"`},
		"the same word twice":          {answer{Stdout: "can't find file '/n.tar'\n", Stderr: "can't find file '/n.tar'\n", Code: 255}, errdefs.ErrNotFound, "pct start 7101: exit status 255: can't find file '/n.tar'"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newClient(t, map[string]answer{"start": tc.answer})
			err := c.Start(t.Context(), 7101)
			require.ErrorIs(t, err, tc.class)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, tc.answer.Code, e.Code)
			assert.NotContains(t, err.Error(), "\n")
			if tc.want != "" {
				assert.EqualError(t, err, tc.want)
			}
		})
	}
}

func TestAPctThatHangsEndsWithTheContext(t *testing.T) {
	c, _ := newClient(t, map[string]answer{"start": {Hang: true}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Start(ctx, 7101)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "pct start 7101")
}

func TestNoPctIsAFailedPrecondition(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	if _, err := os.Stat("/usr/sbin/pct"); err == nil {
		t.Skip("this machine has pct")
	}
	require.ErrorIs(t, (&Client{}).Start(t.Context(), 7101), errdefs.ErrFailedPrecondition)
}

func TestVerbsAreCalledAsPctWantsThem(t *testing.T) {
	c, calls := newClient(t, map[string]answer{
		"start": {}, "stop": {}, "destroy": {}, "unlock": {}, "clone": {}, "restore": {},
		"template": {Stderr: "Task finished with 1 warning(s)!\n"},
		"config":   {Stdout: "arch: amd64\ndescription: a%3Ab%0A\ntemplate: 1\n"},
		"status":   {Stdout: "status: stopped\n"},
	})
	ctx := t.Context()
	stream, err := memfile("tar")
	require.NoError(t, err)
	defer stream.Close()
	_, err = stream.WriteString("TAR")
	require.NoError(t, err)
	_, err = stream.Seek(0, 0)
	require.NoError(t, err)
	for _, err := range []error{
		c.Start(ctx, 100), c.Stop(ctx, 100), c.Destroy(ctx, 100), c.Unlock(ctx, 100), c.Template(ctx, 100),
		c.Clone(ctx, 100, 101, CloneOptions{Hostname: "web"}),
		c.Clone(ctx, 100, 101, CloneOptions{Full: true, Storage: "local"}),
		c.Restore(ctx, 102, stream, Volume{Storage: "local", GiB: 4}, "tmp"),
	} {
		require.NoError(t, err)
	}
	config, err := c.Config(ctx, 100)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"arch": "amd64", "description": "a%3Ab%0A", "template": "1"}, config)
	status, err := c.Status(ctx, 100)
	require.NoError(t, err)
	assert.Equal(t, StatusStopped, status)
	assert.Equal(t, `start 100
stop 100
destroy 100 --destroy-unreferenced-disks 1
unlock 100
template 100
config 100
clone 100 101 --hostname web
clone 100 101 --full 1 --storage local
restore 102 - --rootfs local:4 --unprivileged 0 --hostname tmp
stdin: TAR
config 100
status 100
`, calls())
}

// pct says on stderr that it had to wait, and that is no failure.
func TestATemplateThatHadToWaitForTheLockIsNoFailure(t *testing.T) {
	c, _ := newClient(t, map[string]answer{
		"template": {Stderr: "trying to acquire lock... OK\n"},
		"config":   {Stdout: "template: 1\n"},
	})
	require.NoError(t, c.Template(t.Context(), 100))
}

func TestATemplateThatIsNoneIsAnErrorAlthoughPctAnswers0(t *testing.T) {
	for name, answers := range map[string]map[string]answer{
		"it says so":       {"template": {Stderr: "Template feature is not available for '/x'\n"}},
		"it says nothing":  {"template": {}, "config": {Stdout: "arch: amd64\n"}},
		"it can't be told": {"template": {}, "config": {Code: 255}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newClient(t, answers)
			assert.Error(t, c.Template(t.Context(), 100))
		})
	}
}
