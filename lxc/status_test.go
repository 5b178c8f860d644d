package lxc

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEveryActionInEveryStatus is the whole matrix: what is not in it as an
// arrow is refused.
func TestEveryActionInEveryStatus(t *testing.T) {
	actions := []action{actStart, actPause, actResume, actUpdate, actExec, actDelete, actExit}
	const no = Status("")
	for status, want := range map[Status][]Status{
		//        start    pause   resume   update   exec     delete   exit
		Created: {Running, no, no, Created, Created, Deleted, Stopped},
		Running: {no, Paused, no, Running, Running, no, Stopped},
		Paused:  {no, no, Running, Paused, no, no, Stopped},
		Stopped: {no, no, no, no, no, Deleted, no},
		Deleted: {no, no, no, no, no, no, no},
	} {
		require.Len(t, want, len(actions))
		for i, a := range actions {
			t.Run(string(status)+" "+string(a), func(t *testing.T) {
				got, err := status.next(a)
				if want[i] != no {
					require.NoError(t, err)
					assert.Equal(t, want[i], got)
					return
				}
				assert.Equal(t, status, got, "stays what it is")
				var refusal *StatusError
				require.ErrorAs(t, err, &refusal)
				assert.Equal(t, StatusError{Action: string(a), Status: status}, *refusal)
			})
		}
	}
}

func TestRefusalsHaveTheWordsOfTheRuncShim(t *testing.T) {
	for _, tc := range []struct {
		status Status
		action action
		want   string
	}{
		{Running, actStart, "cannot start a running process"},
		{Stopped, actStart, "cannot start a stopped process"},
		{Paused, actStart, "cannot start a paused process"},
		{Running, actDelete, "cannot delete a running process"},
	} {
		_, err := tc.status.next(tc.action)
		assert.EqualError(t, err, tc.want)
	}
}
