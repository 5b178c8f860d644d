// Package ctconf reads and writes Proxmox's container configurations
// (/etc/pve/nodes/NODE/lxc/VMID.conf) as PVE::LXC::Config does: what it does
// not know it warns about, and drops at the next write.
package ctconf

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Raw is a line that goes to LXC as it is.
type Raw struct{ Key, Value string }

// Section is a set of properties: the current ones, pending ones, or those of
// a snapshot.
type Section struct {
	Description string // decoded; each line ends in \n
	Props       map[string]string
	Env         []string // lxc.environment.runtime, KEY=value
	Raw         []Raw
}

// Conf is one container's configuration.
type Conf struct {
	Section
	Pending   Section // Props has "delete"
	Snapshots map[string]*Section
	Digest    string   // SHA-1 of the text
	Warnings  []string // of the lines that were dropped
}

// New is an empty configuration.
func New() *Conf {
	return &Conf{Section: newSection(), Pending: newSection(), Snapshots: map[string]*Section{}}
}

func newSection() Section { return Section{Props: map[string]string{}} }

var (
	heading  = regexp.MustCompile(`^\[([a-zA-Z][a-zA-Z0-9_-]+|pve:pending)\]\s*$`)
	rawLine  = regexp.MustCompile(`^(lxc\.[a-z0-9_\-.]+)(?::|\s*=)\s*(.*?)\s*$`)
	propLine = regexp.MustCompile(`^([a-z][a-z_]*\d*):\s*(.+?)\s*$`)
)

// Parse reads the configuration of container vmid, by the rules of version.
func Parse(vmid int, text string, version Version) *Conf {
	c := New()
	sum := sha1.Sum([]byte(text))
	c.Digest = hex.EncodeToString(sum[:])
	s := &c.Section
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			s = c.section(m[1])
			continue
		}
		if err := s.line(line, version); err != nil {
			c.Warnings = append(c.Warnings, fmt.Sprintf("vm %d - %s", vmid, err))
		}
	}
	return c
}

func (c *Conf) section(name string) *Section {
	if name == "pve:pending" {
		return &c.Pending
	}
	s := newSection()
	c.Snapshots[name] = &s
	return &s
}

// line takes one line of a section.
func (s *Section) line(line string, version Version) error {
	if rest, ok := strings.CutPrefix(line, "#"); ok {
		s.Description += decode(strings.TrimRight(rest, " \t")) + "\n"
		return nil
	}
	if m := rawLine.FindStringSubmatch(line); m != nil {
		return s.raw(line, m[1], m[2], version)
	}
	m := propLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("unable to parse config: %s", line)
	}
	if m[1] == "description" {
		s.Description += decode(m[2])
		return nil
	}
	value := m[2]
	if m[1] != "snaptime" && m[1] != "snapstate" && m[1] != "parent" && m[1] != "delete" {
		var err error
		if value, err = Check(m[1], m[2], version); err != nil {
			return fmt.Errorf("unable to parse value of '%s' - %s", m[1], strings.TrimRight(err.Error(), "\n"))
		}
	}
	s.Props[m[1]] = value
	return nil
}

func (s *Section) raw(line, key, value string, version Version) error {
	allowed, message := rawKey(key, version)
	if !allowed && message == "" {
		return fmt.Errorf("unable to parse config: %s", line)
	}
	if !allowed {
		return fmt.Errorf("%s: %s", key, message)
	}
	if key == "lxc.environment.runtime" {
		s.Env = append(s.Env, value)
		return nil
	}
	s.Raw = append(s.Raw, Raw{key, value})
	if message != "" {
		return fmt.Errorf("%s: %s", key, message)
	}
	return nil
}

// String is the text of the configuration file.
func (c *Conf) String() string {
	var b strings.Builder
	c.Section.write(&b)
	if len(c.Pending.Props) > 0 || c.Pending.Description != "" {
		b.WriteString("\n[pve:pending]\n")
		c.Pending.write(&b)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Snapshots)) {
		fmt.Fprintf(&b, "\n[%s]\n", name)
		c.Snapshots[name].write(&b)
	}
	return b.String()
}

func (s *Section) write(b *strings.Builder) {
	for line := range strings.Lines(s.Description) {
		b.WriteString("#" + Encode(strings.TrimRight(line, "\n")) + "\n")
	}
	for _, k := range slices.Sorted(maps.Keys(s.Props)) {
		fmt.Fprintf(b, "%s: %s\n", k, s.Props[k])
	}
	for _, e := range s.Env {
		fmt.Fprintf(b, "lxc.environment.runtime: %s\n", e)
	}
	for _, r := range s.Raw {
		fmt.Fprintf(b, "%s: %s\n", r.Key, r.Value)
	}
}

// Get returns a property, or its default.
func (s *Section) Get(key, otherwise string) string {
	if v, ok := s.Props[key]; ok {
		return v
	}
	return otherwise
}

// On says whether a boolean property is set.
func (s *Section) On(key string) bool { return s.Props[key] == "1" }

// RawValue is the value of the last raw line with that key.
func (s *Section) RawValue(key string) (string, bool) {
	for _, r := range slices.Backward(s.Raw) {
		if r.Key == key {
			return r.Value, true
		}
	}
	return "", false
}

// Clone is a deep copy.
func (s *Section) Clone() Section {
	return Section{s.Description, maps.Clone(s.Props), slices.Clone(s.Env), slices.Clone(s.Raw)}
}

// Encode is PVE::Tools::encode_text: what `pct config` shows of a description.
func Encode(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < 0x20 || c > 0x7e || c == '%' || c == ':' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// decode is URI decoding that leaves what is none.
func decode(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if v, err := hex.DecodeString(text[i+1 : i+3]); err == nil {
				b.Write(v)
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
