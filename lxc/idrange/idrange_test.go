package idrange

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cageforge/containerd-shim-nexcage/oci"
)

// source has as many ranges of 100 ids as its files say.
func source(t *testing.T, subuid, subgid string) Source {
	t.Helper()
	dir := t.TempDir()
	s := Source{Dir: filepath.Join(dir, "ids"), User: "root", Size: 100, SubUID: filepath.Join(dir, "subuid"), SubGID: filepath.Join(dir, "subgid")}
	require.NoError(t, os.WriteFile(s.SubUID, []byte(subuid), 0o600))
	require.NoError(t, os.WriteFile(s.SubGID, []byte(subgid), 0o600))
	return s
}

func TestTakeGivesEachOwnerARange(t *testing.T) {
	s := source(t, "root:1000:200\n", "x:1:1\nroot:5000:100\nroot:9000:150\n")
	a, err := s.Take(t.TempDir())
	require.NoError(t, err)
	b, err := s.Take(t.TempDir())
	require.NoError(t, err)
	assert.Equal(t, [][2]uint32{{1000, 5000}, {1100, 9000}}, [][2]uint32{{a.UID, a.GID}, {b.UID, b.GID}})
	_, err = s.Take(t.TempDir())
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, `all 2 ranges of 100 subordinate ids that user "root" has are in use`)

	require.NoError(t, a.Free())
	require.NoError(t, a.Free(), "again")
	c, err := s.Take(t.TempDir())
	require.NoError(t, err)
	assert.Equal(t, a, c)
	assert.Equal(t, oci.IDMap{
		UIDs: []specs.LinuxIDMapping{{HostID: 1000, Size: 100}}, GIDs: []specs.LinuxIDMapping{{HostID: 5000, Size: 100}},
	}, c.Map())
}

// A shim that was killed can not free its range; nor has it always written who
// the owner is.
func TestRangesOfOwnersThatAreGoneAreFree(t *testing.T) {
	s := source(t, "root:1000:100\n", "root:1000:100\n")
	owner := t.TempDir()
	r, err := s.Take(owner)
	require.NoError(t, err)
	require.NoError(t, os.Remove(owner))
	_, err = s.Take(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Truncate(r.File, 0))
	_, err = s.Take(t.TempDir())
	require.NoError(t, err)
}

// The size is configuration, and may change while containers run.
func TestRangesOfAnotherSizeAreNotOverlapped(t *testing.T) {
	s := source(t, "root:1000:300\n", "root:1000:300\n")
	_, err := s.Take(t.TempDir())
	require.NoError(t, err)
	s.Size = 150
	r, err := s.Take(t.TempDir())
	require.NoError(t, err)
	assert.EqualValues(t, 1150, r.UID)
	s.Size = 50
	r, err = s.Take(t.TempDir())
	require.NoError(t, err)
	assert.EqualValues(t, 1100, r.UID)
}

func TestSharedRangeIsNobodys(t *testing.T) {
	s := source(t, "root:1000:100\n", "root:2000:100\n")
	s.Shared = true
	for range 3 {
		r, err := s.Take("/nowhere")
		require.NoError(t, err)
		assert.Equal(t, Range{UID: 1000, GID: 2000, Size: 100}, r)
		require.NoError(t, r.Free())
	}
	assert.NoDirExists(t, s.Dir)
}

func TestConcurrentTakersGetDifferentRanges(t *testing.T) {
	s := source(t, "root:1000:2000\n", "root:1000:2000\n")
	owner := t.TempDir()
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[uint32]bool{}
	for range 20 {
		all.Go(func() {
			r, err := s.Take(owner)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			seen[r.UID] = true
		})
	}
	all.Wait()
	assert.Len(t, seen, 20)
}

func TestTakeSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		uid, gid, want string
		change         func(t *testing.T, s *Source)
	}{
		"no ids":          {"", "root:1:100\n", `subuid: user "root" has no 100 ids in a row`, nil},
		"too few gids":    {"root:1:100\n", "root:1:99\n", `subgid: user "root" has no 100 ids in a row`, nil},
		"not root's":      {"root2:1:100\n", "root:1:100\n", "subuid: user", nil},
		"no file":         {"", "", "subordinate ids: open", func(t *testing.T, s *Source) { require.NoError(t, os.Remove(s.SubUID)) }},
		"a foreign entry": {"root:1:100\n", "root:1:100\n", "not the name of a range", func(t *testing.T, s *Source) { require.NoError(t, os.MkdirAll(s.Dir+"/x", 0o700)) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, c.uid, c.gid)
			if c.change != nil {
				c.change(t, &s)
			}
			_, err := s.Take(t.TempDir())
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestUsersAreKnownByNumberToo(t *testing.T) {
	s := source(t, "0:1000:100\n", "0:1000:100\n")
	_, err := s.Take(t.TempDir())
	require.NoError(t, err)
	s = source(t, "root:1000:100\n", "root:1000:100\n")
	s.User = "0"
	_, err = s.Take(t.TempDir())
	require.NoError(t, err)
}

// Whatever the file has in it: a range is within a line of the user, and has
// no id that is none.
func FuzzParseSubIDs(f *testing.F) {
	f.Add("root:100000:65536\n#\nroot:1:\n:::\nroot:4294967295:4294967295\n", uint32(65536))
	f.Add("root:0:4294967295", uint32(1<<31))
	f.Add("root: 1:100\n\x00\nroot:18446744073709551615:1\n", uint32(1))
	f.Fuzz(func(t *testing.T, text string, size uint32) {
		if size < 1<<16 {
			size += 1 << 16 // or there are too many
		}
		for _, first := range parseSubIDs(text, []string{"root"}, size) {
			if uint64(first)+uint64(size) > 1<<32-1 {
				t.Errorf("%q: %d and %d more", text, first, size)
			}
		}
	})
}
