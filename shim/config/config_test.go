package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDefaultIsValid(t *testing.T) {
	c := Default()
	require.NoError(t, c.Validate())
	assert.Equal(t, &Config{
		StateDir: "/run/nexcage",
		Routing:  Routing{DefaultBackend: "lxc"},
		LXC: LXC{Host: "auto", Native: Native{LXCStart: "lxc-start", LXCPath: "/run/nexcage/.lxc", ExitStatus: "auto"},
			UserNS: "spec", UserNSUser: "root", UserNSRange: "container", UserNSSize: 65536, UserNSFallback: "error",
			PVE: PVE{VMIDMin: 900000, VMIDMax: 999999, Bridge: "vmbr0", ExitStatus: "auto",
				Rootfs: "snapshot", Size: 8, VolumeDir: "/var/lib/nexcage", TemplateMaxAge: "720h"}},
		Crun: Crun{Path: "crun"},
	}, c)
}

func TestLoadWithoutAFileGivesTheDefaults(t *testing.T) {
	c, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	require.NoError(t, err)
	assert.Equal(t, Default(), c)
}

func TestLoadReportsAFileThatCannotBeRead(t *testing.T) {
	_, err := Load(t.TempDir()) // a directory
	require.ErrorContains(t, err, "is a directory")
}

func TestLoadRefusesAFileThatIsTooLong(t *testing.T) {
	_, err := Load(write(t, strings.Repeat("# \n", maxSize/3+1)))
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.ErrorContains(t, err, "longer than 1048576 bytes")
}

func TestLoadReadsEveryKey(t *testing.T) {
	c, err := Load(write(t, `
state_dir = "/srv/nexcage/"
[routing]
default_backend = "crun"
fallback = "crun"
[[routing.rules]]
namespace = "a"
id = "b"
image = "c"
backend = "lxc"
[[routing.rules]]
cri_container_name = "d"
cri_sandbox_name = "e"
cri_sandbox_namespace = "f"
nerdctl_name = "g"
backend = "crun"
[lxc]
host = "native"
helper = "/opt/nexcage-init"
allowed_annotations = ["io.nexcage.backend"]
userns = "auto"
userns_user = "containers"
userns_range = "shared"
userns_size = 1000
userns_fallback = "plain"
[lxc.native]
lxc_start = "/opt/lxc/bin/lxc-start"
lxc_path = "/srv/lxc/../lxc"
exit_status = "monitor"
[lxc.pve]
pct = "/opt/pct"
vmid_min = 5000
vmid_max = 5999
tags = ["team-a"]
features = "nesting=1"
onboot = true
bridge = "vmbr7"
nets = ["ip=dhcp"]
exit_status = "pidfd"
rootfs = "volume"
storage = "local-zfs"
size = 16
volume_dir = "/srv/volumes/"
template_max_age = "24h"
[crun]
path = "/opt/crun"
root = "/run/crun"
systemd_cgroup = true
[log]
level = "debug"
`))
	require.NoError(t, err)
	assert.Equal(t, &Config{
		StateDir: "/srv/nexcage",
		Routing: Routing{DefaultBackend: "crun", Fallback: "crun", Rules: []Rule{
			{Namespace: "a", ID: "b", Image: "c", Backend: "lxc"},
			{CRIContainerName: "d", CRISandboxName: "e", CRISandboxNamespace: "f", NerdctlName: "g", Backend: "crun"},
		}},
		LXC: LXC{Host: "native", Helper: "/opt/nexcage-init", AllowedAnnotations: []string{"io.nexcage.backend"},
			UserNS: "auto", UserNSUser: "containers", UserNSRange: "shared", UserNSSize: 1000, UserNSFallback: "plain",
			Native: Native{LXCStart: "/opt/lxc/bin/lxc-start", LXCPath: "/srv/lxc", ExitStatus: "monitor"},
			PVE: PVE{Pct: "/opt/pct", VMIDMin: 5000, VMIDMax: 5999, Tags: []string{"team-a"}, Features: "nesting=1", OnBoot: true, Bridge: "vmbr7", Nets: []string{"ip=dhcp"}, ExitStatus: "pidfd",
				Rootfs: "volume", Storage: "local-zfs", Size: 16, VolumeDir: "/srv/volumes", TemplateMaxAge: "24h"}},
		Crun: Crun{Path: "/opt/crun", Root: "/run/crun", SystemdCgroup: true},
		Log:  Log{Level: "debug"},
	}, c)
}

func TestLXCPathFollowsStateDir(t *testing.T) {
	c, err := Load(write(t, `state_dir = "/srv/x"`))
	require.NoError(t, err)
	assert.Equal(t, "/srv/x/.lxc", c.LXC.Native.LXCPath)
}

func TestLoadNamesTheKeyAndTheAllowedValues(t *testing.T) {
	const rule = "[[routing.rules]]\nbackend = 'lxc'\nid = 'x'\n"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"syntax":                      {"[routing\n", []string{"line 1"}},
		"duplicate key":               {"state_dir = '/a'\nstate_dir = '/b'", []string{"line 2", "state_dir"}},
		"unknown key":                 {"colour = 1", []string{"line 1: colour: unknown key", "the top level has state_dir, routing, lxc, crun, log"}},
		"unknown table":               {"[pve]\nx = 1", []string{"pve", "unknown key"}},
		"unknown key of a table":      {"[crun]\nbinary = 'x'", []string{"line 2: crun.binary: unknown key", "[crun] has path, root, systemd_cgroup"}},
		"unknown key of inner table":  {"[lxc.native]\nlxcpath = 'x'", []string{"lxc.native.lxcpath: unknown key", "[lxc.native] has lxc_start, lxc_path"}},
		"unknown key of a rule":       {rule + "name = 'x'", []string{"line 4: routing.rules.name: unknown key", "[routing.rules] has namespace, id, image,"}},
		"two unknown keys":            {"a = 1\nb = 1", []string{"line 1: a: unknown key", "line 2: b: unknown key"}},
		"wrong type":                  {"[crun]\nsystemd_cgroup = 'yes'", []string{"line 2: crun.systemd_cgroup: "}},
		"wrong type in a rule":        {rule + "image = 1", []string{"line 4: routing.rules.image: "}},
		"wrong type of a list":        {"[lxc]\nallowed_annotations = 'x'", []string{"line 2: lxc.allowed_annotations: "}},
		"value for a table":           {"routing = 1", []string{"line 1: routing: "}},
		"one rule without brackets":   {"[routing.rules]\nid = 'x'", []string{"routing.rules"}},
		"unknown backend":             {"[routing]\ndefault_backend = 'runc'", []string{`routing.default_backend: "runc" is not one of "lxc", "crun"`}},
		"empty backend":               {"[routing]\ndefault_backend = ''", []string{`routing.default_backend: "" is not one of`}},
		"fallback to lxc":             {"[routing]\nfallback = 'lxc'", []string{`routing.fallback: "lxc" is not one of "", "crun"`}},
		"unknown backend of a rule":   {rule + rule + "[[routing.rules]]\nid = 'x'\nbackend = 'kvm'", []string{`routing.rules[2].backend: "kvm" is not one of "lxc", "crun"`}},
		"rule without a backend":      {"[[routing.rules]]\nid = 'x'", []string{`routing.rules[0].backend: "" is not one of`}},
		"rule without a condition":    {"[[routing.rules]]\nbackend = 'lxc'", []string{"routing.rules[0]: has no condition", "routing.default_backend"}},
		"bad expression":              {rule + rule + "[[routing.rules]]\nbackend = 'lxc'\nid = '('", []string{"routing.rules[2].id: error parsing regexp"}},
		"expression that is not RE2":  {"[[routing.rules]]\nbackend = 'lxc'\nnerdctl_name = '(?=x)'", []string{"routing.rules[0].nerdctl_name: error parsing regexp"}},
		"VMID too small":              {"[lxc.pve]\nvmid_min = 99", []string{"lxc.pve.vmid_min: 99 is not from 100 to 999999999"}},
		"VMIDs the wrong way round":   {"[lxc.pve]\nvmid_max = 899999", []string{"lxc.pve.vmid_max: 899999 is not from lxc.pve.vmid_min, 900000"}},
		"bridge of no name":           {"[lxc.pve]\nbridge = 'a,b'", []string{`lxc.pve.bridge: "a,b" is no name of a bridge`}},
		"empty interface":             {"[lxc.pve]\nnets = ['']", []string{"lxc.pve.nets[0]: is empty"}},
		"tag of no CT":                {"[lxc.pve]\ntags = ['a', 'B c']", []string{`lxc.pve.tags[1]: "B c" is no tag of Proxmox`}},
		"root of no kind":             {"[lxc.pve]\nrootfs = 'disk'", []string{`lxc.pve.rootfs: "disk" is not one of "snapshot", "volume"`}},
		"volume without a storage":    {"[lxc.pve]\nrootfs = 'volume'", []string{`lxc.pve.storage: has to be given for lxc.pve.rootfs = "volume"`}},
		"storage of no name":          {"[lxc.pve]\nstorage = 'a:b'", []string{`lxc.pve.storage: "a:b" is no name of a storage`}},
		"volume of no size":           {"[lxc.pve]\nsize = 0", []string{"lxc.pve.size: 0 is not from 1 to 131072 GiB"}},
		"volumes' directory":          {"[lxc.pve]\nvolume_dir = 'x'", []string{`lxc.pve.volume_dir: "x" is not an absolute path`}},
		"age of no template":          {"[lxc.pve]\ntemplate_max_age = '30d'", []string{`lxc.pve.template_max_age: "30d" is no duration as 720h`}},
		"age that does not pass":      {"[lxc.pve]\ntemplate_max_age = '-1h'", []string{`lxc.pve.template_max_age: "-1h" is no duration as 720h`}},
		"features of no CT":           {"[lxc.pve]\nfeatures = 'nesting'", []string{`lxc.pve.features: "nesting" is not of the form`}},
		"unknown host":                {"[lxc]\nhost = 'xen'", []string{`lxc.host: "xen" is not one of "auto", "native"`}},
		"unknown annotation":          {"[lxc]\nallowed_annotations = ['io.nexcage.backend', 'io.nexcage.*']", []string{`lxc.allowed_annotations[1]: "io.nexcage.*" is not one of "io.nexcage.backend"`}},
		"relative state directory":    {"state_dir = 'run'", []string{`state_dir: "run" is not an absolute path`}},
		"empty state directory":       {"state_dir = ''", []string{`state_dir: "" is not an absolute path`}},
		"control character in a path": {"state_dir = \"/run/\\n\"", []string{"state_dir: \"/run/\\n\" has control characters"}},
		"relative helper":             {"[lxc]\nhelper = 'nexcage-init'", []string{`lxc.helper: "nexcage-init" is not an absolute path`}},
		"unknown user namespace":      {"[lxc]\nuserns = 'always'", []string{`lxc.userns: "always" is not one of "spec", "auto"`}},
		"unknown range of ids":        {"[lxc]\nuserns_range = 'pod'", []string{`lxc.userns_range: "pod" is not one of "container", "shared"`}},
		"unknown fallback":            {"[lxc]\nuserns_fallback = 'none'", []string{`lxc.userns_fallback: "none" is not one of "error", "plain"`}},
		"nobody's ids":                {"[lxc]\nuserns_user = ''", []string{`lxc.userns_user: "" is not a user`}},
		"no ids":                      {"[lxc]\nuserns_size = 0", []string{`lxc.userns_size: 0 is no size of a range`}},
		"relative lxc-start":          {"[lxc.native]\nlxc_start = 'bin/lxc-start'", []string{`lxc.native.lxc_start: "bin/lxc-start" is neither an absolute path`}},
		"unknown exit status":         {"[lxc.native]\nexit_status = 'guess'", []string{`lxc.native.exit_status: "guess" is not one of "auto", "pidfd", "monitor"`}},
		"relative lxcpath":            {"[lxc.native]\nlxc_path = 'lxc'", []string{`lxc.native.lxc_path: "lxc" is not an absolute path`}},
		"no crun":                     {"[crun]\npath = ''", []string{`crun.path: "" is neither`}},
		"relative crun root":          {"[crun]\nroot = 'x'", []string{`crun.root: "x" is not an absolute path`}},
		"unknown log level":           {"[log]\nlevel = 'loud'", []string{`log.level: "loud" is not one of "", "trace", "debug", "info", "warn"`}},
		"several":                     {"[crun]\nroot = 'x'\n[log]\nlevel = 'loud'", []string{"crun.root", "log.level"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.text)
			_, err := Load(path)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			for _, want := range append(tt.want, path) {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestLogLevelIsSetUnlessItIsContainerds(t *testing.T) {
	before := log.GetLevel()
	defer func() { assert.NoError(t, log.SetLevel(before.String())) }()
	for _, level := range []log.Level{log.TraceLevel, log.DebugLevel, log.WarnLevel, log.PanicLevel} {
		require.NoError(t, Log{Level: level.String()}.Apply())
		assert.Equal(t, level, log.GetLevel())
		require.NoError(t, Log{}.Apply())
		assert.Equal(t, level, log.GetLevel())
	}
}

// An accepted configuration is valid, and stays what it is when written and
// read again.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile(examplePath)
	require.NoError(f, err)
	f.Add(string(example))
	f.Add(uncommented(string(example)))
	f.Add("state_dir = '/a//b/'\n[[routing.rules]]\nid = '('")
	f.Add("routing.rules = [{id = 'x', backend = 'crun'}]")
	f.Add("[lxc]\nallowed_annotations = ['io.nexcage.backend']\n[lxc.native]\nlxc_path = '/a/../b'")
	f.Add("a = [[[[{b = [1e9, 1979-05-27, nan]}]]]]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse("fuzz", []byte(text))
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		require.NoError(t, c.Validate())
		again, err := toml.Marshal(c)
		require.NoError(t, err)
		c2, err := parse("again", again)
		require.NoError(t, err, "%s", again)
		if len(c.Routing.Rules) == 0 { // nil or empty: the same
			c.Routing.Rules, c2.Routing.Rules = nil, nil
		}
		if len(c.LXC.AllowedAnnotations) == 0 {
			c.LXC.AllowedAnnotations, c2.LXC.AllowedAnnotations = nil, nil
		}
		require.Equal(t, c, c2)
	})
}

func TestDeepNestingIsAnError(t *testing.T) {
	for _, open := range []string{"[", "{a=", "a."} {
		_, err := parse("deep", []byte("a="+strings.Repeat(open, (maxSize-2)/len(open))))
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func write(t testing.TB, text string) string {
	path := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
