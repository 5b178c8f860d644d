package shim

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConstantsAreWhatTheProgramCannotHaveWritten(t *testing.T) {
	const self = "/usr/bin/x"
	for name, tt := range map[string]struct {
		line string
		want bool
	}{
		"code":               {"00400000-0081a000 r-xp 00000000 fe:00 9982586    /usr/bin/x", true},
		"constants":          {"0081a000-00cef000 r--p 0041a000 fe:00 9982586    /usr/bin/x", true},
		"data":               {"00cef000-00d2b000 rw-p 008ef000 fe:00 9982586    /usr/bin/x", false},
		"no file":            {"00d2b000-02d65000 r--p 00000000 00:00 0 ", false},
		"vdso":               {"7ffd000-7ffe000 r-xp 00000000 00:00 0            [vdso]", false},
		"another file":       {"00400000-0081a000 r-xp 00000000 fe:00 1          /bin/usr/bin/x", false},
		"a file of the name": {"00400000-0081a000 r-xp 00000000 fe:00 1          /usr/bin/x2", false},
		"nonsense":           {"x", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, ok := constant(tt.line, self)
			assert.Equal(t, tt.want, ok)
		})
	}
	start, end, _ := constant("00400000-0081a000 r-xp 00000000 fe:00 9982586 /usr/bin/x", self)
	assert.Equal(t, [2]uintptr{0x400000, 0x81a000}, [2]uintptr{start, end})
}

func TestTheProgramRunsOnWithoutItsPages(t *testing.T) {
	before := mapped(t)
	require.NoError(t, dropProgram())
	assert.Less(t, mapped(t), before/2)
}

// mapped is how much of the program is in memory, in KiB.
func mapped(t *testing.T) (sum int) {
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^Pss_File: +(\d+) kB`).FindSubmatch(b)
	require.NotNil(t, m)
	sum, err = strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return sum
}

func TestMemoryIsGivenBackWhenTheShimIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrimmer()
		defer tr.timer.Stop()
		trimmed := func() time.Duration { // how long ago
			synctest.Wait()
			return time.Duration(time.Now().UnixNano() - tr.last.Load())
		}
		call := func(d time.Duration) {
			_, err := tr.intercept(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) {
				time.Sleep(d)
				return nil, nil
			})
			require.NoError(t, err)
		}
		for range 10 { // not while it works
			call(0)
			time.Sleep(idleTime / 2)
			assert.Zero(t, tr.last.Load())
		}
		time.Sleep(idleTime / 2)
		assert.Zero(t, trimmed())

		call(0) // not at once again
		time.Sleep(trimInterval - time.Second)
		assert.Equal(t, trimInterval-time.Second, trimmed())
		time.Sleep(time.Second)
		assert.Zero(t, trimmed())

		time.Sleep(time.Hour) // and not without a call
		assert.Equal(t, time.Hour, trimmed())
		call(0)
		time.Sleep(idleTime)
		assert.Zero(t, trimmed())
	})
}
