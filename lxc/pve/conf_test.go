package pve

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAConfigurationIsReadBackAsItWasWritten(t *testing.T) {
	c := &Conf{
		Description: "über: 50 %\n- **id**: `c1`",
		Props:       []Prop{{"hostname", "web"}, {"net0", "name=eth0,bridge=vmbr0"}, {"tags", "a;nexcage"}},
		Raw:         []Prop{{"lxc.include", "/run/x/vm-100.conf"}, {"lxc.cap.drop", ""}},
	}
	text, err := c.Marshal()
	require.NoError(t, err)
	assert.Equal(t, `#%C3%BCber%3A 50 %25
#- **id**%3A `+"`c1`"+`
hostname: web
net0: name=eth0,bridge=vmbr0
tags: a;nexcage
lxc.include: /run/x/vm-100.conf
lxc.cap.drop:
`, string(text))
	assert.Equal(t, c, ParseConf(text))
}

func TestWhatAConfigurationCanNotExpressIsRefused(t *testing.T) {
	for name, c := range map[string]Conf{
		"newline":            {Props: []Prop{{"hostname", "a\nonboot: 1"}}},
		"blank at the end":   {Props: []Prop{{"hostname", "a "}}},
		"empty property":     {Props: []Prop{{"hostname", ""}}},
		"no key":             {Props: []Prop{{"Host name", "a"}}},
		"key of LXC":         {Props: []Prop{{"lxc.include", "/a"}}},
		"key twice":          {Props: []Prop{{"memory", "16"}, {"memory", "32"}}},
		"not ASCII":          {Props: []Prop{{"hostname", "ü"}}},
		"raw newline":        {Raw: []Prop{{"lxc.include", "/a\n[pve:pending]"}}},
		"raw key not of LXC": {Raw: []Prop{{"memory", "16"}}},
		"long description":   {Description: strings.Repeat("x", maxDescription+1)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Marshal()
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestOnlyTheFirstSectionIsTheContainer(t *testing.T) {
	c := ParseConf([]byte("#d\narch: amd64\nlxc.include: /a\ngarbage\n[pve:pending]\narch: i386\nlxc.include: /b\n"))
	assert.Equal(t, &Conf{Description: "d", Props: []Prop{{"arch", "amd64"}}, Raw: []Prop{{"lxc.include", "/a"}}}, c)
}

func TestOwnershipNeedsTagNodeAndVMID(t *testing.T) {
	const ours = "rootfs: /b/rootfs\ntags: nexcage;x\nlxc.include: /run/nexcage/ns/c1/vm-900000.conf\n"
	for name, tc := range map[string]struct {
		text string
		want bool
	}{
		"ours":                        {ours, true},
		"tag was removed":             {strings.Replace(ours, "nexcage;x", "x", 1), false},
		"another tag with that name":  {strings.Replace(ours, "nexcage;", "nexcages;", 1), false},
		"a clone":                     {strings.Replace(ours, "vm-900000", "vm-900001", 1), false},
		"of another node":             {strings.Replace(ours, "vm-900000", "pve2-900000", 1), false},
		"a backup, restored":          {strings.Replace(ours, "/b/rootfs", "local:vm-900000-disk-0,size=4G", 1), false},
		"two includes":                {ours + "lxc.include: /x\n", false},
		"the line is in a snapshot":   {"tags: nexcage\nrootfs: /b\n[s1]\n" + ours, false},
		"a stranger":                  {"rootfs: local:vm-900000-disk-0\n", false},
		"nothing, just being created": {"", false},
		"include is relative":         {strings.Replace(ours, "/run/nexcage/ns/c1/", "", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tc.want, ParseConf([]byte(tc.text)).isOurs("vm", 900000))
		})
	}
}

func FuzzConf(f *testing.F) {
	f.Add("text\nmore", "hostname", "web", "lxc.include", "/a b")
	f.Add("%41:", "net0", "name=eth0", "lxc.cap.drop", "")
	f.Add("[x]", "a", "=b", "lxc.x", "= :")
	f.Fuzz(func(t *testing.T, description, key, value, raw, rawValue string) {
		c := &Conf{Description: description, Props: []Prop{{key, value}}, Raw: []Prop{{raw, rawValue}}}
		text, err := c.Marshal()
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		c.Description = strings.TrimSuffix(description, "\n")
		require.Equal(t, c, ParseConf(text), "%q", text)
	})
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte("#a%\narch: x\n[s]\n"))
	f.Fuzz(func(_ *testing.T, text []byte) { ParseConf(text).isOurs("vm", 100) })
}
