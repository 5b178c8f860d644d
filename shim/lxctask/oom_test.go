package lxctask

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// An OOM kill that is seen before the start is told of after it.
func TestAnOOMKillFollowsTheStart(t *testing.T) {
	for name, tc := range map[string]struct{ steps, want []string }{
		"after the start":         {[]string{"start", "oom", "exit"}, []string{"start", "oom", "exit"}},
		"before the start":        {[]string{"oom", "start", "exit"}, []string{"start", "oom", "exit"}},
		"several, before it":      {[]string{"oom", "oom", "start", "exit"}, []string{"start", "oom", "exit"}},
		"before and after":        {[]string{"oom", "start", "oom", "exit"}, []string{"start", "oom", "oom", "exit"}},
		"of one that never start": {[]string{"oom", "exit"}, []string{"oom", "exit"}},
		"none":                    {[]string{"start", "exit"}, []string{"start", "exit"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			var o oomOrder
			for _, step := range tc.steps {
				switch step {
				case "oom":
					o.report(func() { got = append(got, "oom") })
				case "start":
					got = append(got, "start")
					o.pass()
				case "exit":
					o.pass()
					got = append(got, "exit")
				}
			}
			assert.Equal(t, tc.want, got)
		})
	}
}
