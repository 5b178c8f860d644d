package ctconf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTextThatComesBackAsItIs(t *testing.T) {
	for name, text := range map[string]string{
		"empty":       "",
		"properties":  "arch: amd64\nhostname: a-b.c\nmemory: 256\n",
		"description": "#a%3A b%25\n#second\narch: amd64\n",
		"raw lines in their order, after the properties": "arch: amd64\nlxc.init.cmd: /dev/.nexcage/init\nlxc.cap.drop: \nlxc.include: /run/x\nlxc.cap.drop: sys_boot\n",
		"pending":   "arch: amd64\n\n[pve:pending]\ndelete: onboot\nentrypoint: /bin/x\n",
		"snapshots": "arch: amd64\nparent: s1\n\n[s1]\narch: amd64\nsnaptime: 1\nlxc.include: /run/x\n",
		"env":       "arch: amd64\nlxc.environment.runtime: A=b c\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := Parse(100, text, PVE91)
			assert.Empty(t, c.Warnings)
			assert.Equal(t, text, c.String())
		})
	}
}

func TestLinesThatAreDropped(t *testing.T) {
	for name, tc := range map[string]struct {
		line    string
		version Version
		warning string
	}{
		"unknown raw key":        {"lxc.namespace.share.net: /x", PVE91, "vm 100 - unable to parse config: lxc.namespace.share.net: /x"},
		"raw key with =":         {"lxc.no_new_privs = 1", PVE91, "vm 100 - unable to parse config: lxc.no_new_privs = 1"},
		"the root file system":   {"lxc.rootfs.path: /x", PVE91, "vm 100 - lxc.rootfs.path: lxc.rootfs.path is auto generated from rootfs"},
		"a key of 9.1 on 8":      {"lxc.init.cwd: /", PVE8, "vm 100 - unable to parse config: lxc.init.cwd: /"},
		"a property of 9.1 on 8": {"entrypoint: /bin/x", PVE8, "vm 100 - unable to parse value of 'entrypoint' - unknown setting 'entrypoint'"},
		"unknown property":       {"colour: red", PVE91, "vm 100 - unable to parse value of 'colour' - unknown setting 'colour'"},
		"bad value":              {"memory: abc", PVE91, "vm 100 - unable to parse value of 'memory' - type check ('integer') failed - got 'abc'"},
		"no line at all":         {"what is this", PVE91, "vm 100 - unable to parse config: what is this"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Parse(100, "arch: amd64\n"+tc.line+"\nlxc.include: /run/x\n", tc.version)
			assert.Equal(t, []string{tc.warning}, c.Warnings)
			assert.Equal(t, "arch: amd64\nlxc.include: /run/x\n", c.String())
		})
	}
}

func TestARawLineAfterASectionIsOfTheSection(t *testing.T) {
	c := Parse(100, "arch: amd64\n[s1]\narch: amd64\nlxc.include: /run/x\n", PVE91)
	assert.Empty(t, c.Raw)
	assert.Equal(t, []Raw{{"lxc.include", "/run/x"}}, c.Snapshots["s1"].Raw)
}

func TestOldCgroupKeysAreKeptWithAWarning(t *testing.T) {
	c := Parse(100, "lxc.cgroup.dir.container: a/b\n", PVE91)
	assert.Len(t, c.Warnings, 1)
	assert.Contains(t, c.String(), "lxc.cgroup.dir.container: a/b\n")
	assert.Empty(t, Parse(100, "lxc.cgroup.dir.container: a/b\n", PVE8).Warnings)
}

func TestValues(t *testing.T) {
	for name, tc := range map[string]struct{ key, value, want, fails string }{
		"tags are sorted once":     {"tags", "nexcage, B;nexcage", "b;nexcage", ""},
		"bad tag":                  {"tags", "a/b", "", "invalid format - invalid characters in tag\n"},
		"boolean":                  {"onboot", "yes", "1", ""},
		"bad boolean":              {"onboot", "2", "", "type check ('boolean') failed - got '2'"},
		"too few":                  {"cores", "0", "", "value must have a minimum value of 1"},
		"too many":                 {"tty", "7", "", "value must have a maximum value of 6"},
		"fraction":                 {"cpulimit", "1.5", "1.5", ""},
		"hostname":                 {"hostname", "-a", "", "invalid format - value does not look like a valid DNS name\n"},
		"name first, then sorted":  {"net0", "bridge=vmbr0,ip=dhcp,name=eth0", "name=eth0,bridge=vmbr0,ip=dhcp", ""},
		"unknown network property": {"net0", "name=eth0,x=1", "", "invalid format - format error\nx: property is not defined in schema and the schema does not allow additional properties\n"},
		"too high a number":        {"net32", "name=eth0", "", "unknown setting 'net32'"},
		"family without a number":  {"net", "name=eth0", "", "unknown setting 'net'"},
		"directory with a =":       {"rootfs", "/a=b,ro=1", "/a=b,ro=1", ""},
		"backup of the root":       {"rootfs", "/a,backup=1", "", "invalid format - format error\nbackup: property is not defined in schema and the schema does not allow additional properties\n"},
		"enumeration":              {"cmode", "x", "", "value 'x' does not have a value in the enumeration 'shell, console, tty'"},
		"control character":        {"entrypoint", "/bin/x\x01", "", "value does not match the regex pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Check(tc.key, tc.value, PVE91)
			if tc.fails != "" {
				assert.EqualError(t, err, tc.fails)
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestDescriptionIsEncodedAndDecoded(t *testing.T) {
	for _, text := range []string{"", "a: b", "100%", "ü\ttab", "%3A"} {
		assert.Equal(t, text, decode(Encode(text)))
	}
	assert.Equal(t, "line%3A two%0A", Encode("line: two\n"))
}

// FuzzParse: what was written is read back the same, and warned about no more.
func FuzzParse(f *testing.F) {
	f.Add("arch: amd64\n#d%3A\nlxc.include: /x\n[pve:pending]\nonboot: 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		once := Parse(100, text, PVE8).String()
		again := Parse(100, once, PVE8)
		if again.String() != once {
			t.Errorf("%q became %q", once, again.String())
		}
		for _, w := range again.Warnings {
			if !strings.Contains(w, "deprecated") {
				t.Errorf("%q: %s", once, w)
			}
		}
	})
}
