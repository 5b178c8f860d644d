package lxcconf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMarshal(t *testing.T) {
	b, err := Marshal([]Line{
		Set("lxc.uts.name", "web"),
		Set("lxc.cap.drop", ""),
		Set("lxc.environment", `A="b" # c`),
		MountEntry("/a b\\\n", "/c", "none", "bind,ro"),
	})
	require.NoError(t, err)
	assert.Equal(t, `lxc.uts.name = web
lxc.cap.drop =
lxc.environment = A="b" # c
lxc.mount.entry = /a\040b\134\012 c none bind,ro 0 0
`, string(b))
}

func TestMarshalRefusesWhatLXCWouldReadDifferently(t *testing.T) {
	for name, l := range map[string]Line{
		"newline":                Set("lxc.x", "a\nlxc.hook.pre-start = /bin/sh"),
		"carriage return":        Set("lxc.x", "a\rb"),
		"NUL":                    Set("lxc.x", "a\x00b"),
		"blank at the end":       Set("lxc.x", "a "),
		"blank at the start":     Set("lxc.x", " a"),
		"quotes":                 Set("lxc.x", `"a"`),
		"single quotes":          Set("lxc.x", `'a'`),
		"empty quotes":           Set("lxc.x", `""`),
		"no key":                 Set("", "a"),
		"other key":              Set("xlxc.a", "a"),
		"comment":                Set("#lxc.a", "a"),
		"key with a value":       Set("lxc.a = b", "c"),
		"key with a newline":     Set("lxc.a\nlxc.b", "c"),
		"comment in the table":   MountEntry("#x", "c", "none", "bind"),
		"no source":              MountEntry("", "c", "none", "bind"),
		"no target":              MountEntry("/a", "/", "none", "bind"),
		"no type":                MountEntry("/a", "c", "", "bind"),
		"no options":             MountEntry("/a", "c", "none", ""),
		"more than is read":      MountEntry("/"+strings.Repeat("a", 4000), "c", "none", "bind"),
		"mount entry by itself":  Set(mountEntry, "/a c"),
		"two entries in a value": Set(mountEntry, "/a c none bind 0 0 /b"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Marshal([]Line{l})
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

// read parses a configuration as parse_line in confile.c of LXC does (the same
// in 3.0 to 6.0). Lines end at \n, \r and NUL.
func read(b []byte) (lines []Line) {
	for _, line := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }) {
		line = strings.TrimLeft(line, " \t")
		if !strings.HasPrefix(line, "lxc.") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			panic("invalid line")
		}
		key, value = strings.TrimRight(key, " \t\n"), strings.TrimRight(strings.TrimLeft(value, " \t"), " \t\n")
		if n := len(value); n > 1 && (value[0] == '\'' || value[0] == '"') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		lines = append(lines, Line{key, value})
	}
	return lines
}

// mntent reads one line of an fstab as getmntent_r(3) of glibc does, with the
// line that the buffer of LXC holds. ok is false for what is skipped.
func mntent(line string) (source, target, fstype, options string, ok bool) {
	if len(line) > 4095 {
		line = line[:4095]
	}
	line = strings.TrimLeft(line, " \t")
	if line == "" || line[0] == '#' {
		return "", "", "", "", false
	}
	f := append(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' }), "", "", "", "")
	decode := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\\`, `\`, `\134`, `\`)
	return decode.Replace(f[0]), decode.Replace(f[1]), decode.Replace(f[2]), decode.Replace(f[3]), true
}

func FuzzMarshal(f *testing.F) {
	f.Add("lxc.uts.name", "a")
	f.Add("lxc.x", "\" '")
	f.Add("lxc.x", "a\n#")
	f.Add("lxc.mount.entry", "a b c d 0 0")
	f.Fuzz(func(t *testing.T, key, value string) {
		end := Set("lxc.end", "x")
		b, err := Marshal([]Line{{key, value}, end})
		if err != nil {
			return
		}
		assert.Equal(t, []Line{{key, value}, end}, read(b))
	})
}

func FuzzMountEntry(f *testing.F) {
	f.Add("/a b", "c", "none", "bind,ro")
	f.Add("\\040", "a\n", "x y", "#")
	f.Add("#", "/", "", "")
	f.Fuzz(func(t *testing.T, source, target, fstype, options string) {
		b, err := Marshal([]Line{MountEntry(source, target, fstype, options)})
		if err != nil {
			return
		}
		lines := read(b)
		require.Len(t, lines, 1)
		s, tg, ty, o, ok := mntent(lines[0].Value)
		require.True(t, ok)
		assert.Equal(t, []string{source, strings.TrimPrefix(target, "/"), fstype, options}, []string{s, tg, ty, o})
	})
}

// What is written is what LXC itself reads.
func TestLXCReadsWhatIsWritten(t *testing.T) {
	info, err := exec.LookPath("lxc-info")
	require.NoError(t, err)
	for name, value := range map[string]string{
		"path":             "/run/netns/a",
		"blanks":           "/a  b",
		"number sign":      "# no comment",
		"equals":           "a = b = c",
		"opening quote":    `"a`,
		"different quotes": `'a"`,
		"backslash":        `a\`,
		"bytes":            "\xff\xc3\xa9",
	} {
		t.Run(name, func(t *testing.T) {
			const key = "lxc.rootfs.path"
			b, err := Marshal([]Line{Set(key, value), Set("lxc.uts.name", "end")})
			require.NoError(t, err)
			assert.Equal(t, []Line{{key, value}, {"lxc.uts.name", "end"}}, read(b))

			dir := t.TempDir()
			removeLock(t, dir, "ct")
			require.NoError(t, os.Mkdir(filepath.Join(dir, "ct"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "ct", "config"), b, 0o600))
			out, err := exec.Command(info, "-P", dir, "-n", "ct", "-c", key, "-c", "lxc.uts.name").Output()
			require.NoError(t, err)
			assert.Equal(t, key+" = "+value+"\nlxc.uts.name = end", string(bytes.TrimSpace(out)))
		})
	}
}

// removeLock removes what liblxc makes to lock a container (lxclock.c), and the
// directories that are empty then.
func removeLock(t *testing.T, lxcPath, name string) {
	const top = "/run/lxc/lock"
	file := filepath.Join(top, lxcPath, "."+name)
	t.Cleanup(func() {
		if err := os.Remove(file); !os.IsNotExist(err) {
			assert.NoError(t, err)
		}
		for dir := filepath.Dir(file); dir != top && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
		}
	})
}
