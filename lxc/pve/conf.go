package pve

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Prop is a property of a CT: "key: value".
type Prop struct{ Key, Value string }

// Conf is the first section of a CT's configuration, /etc/pve/nodes/N/lxc/ID.conf
// (pct.conf(5)); what follows are pending changes and snapshots.
type Conf struct {
	// Description is shown in the UI, as markdown; at most 8192 bytes.
	Description string
	Props       []Prop // no key twice
	// Raw are keys of LXC, "lxc.…", in order.
	Raw []Prop
}

const maxDescription = 8192

var (
	propKey = regexp.MustCompile(`^[a-z][a-z_]*[0-9]*$`)
	rawKey  = regexp.MustCompile(`^lxc\.[a-z0-9_\-.]+$`)
)

// Marshal encodes the configuration so that Proxmox reads it back as it is.
// It fails with ErrInvalidArgument for what the format can not express.
func (c *Conf) Marshal() ([]byte, error) {
	if len(c.Description) > maxDescription {
		return nil, fmt.Errorf("description of a CT: %d bytes, more than %d: %w", len(c.Description), maxDescription, errdefs.ErrInvalidArgument)
	}
	var b bytes.Buffer
	if c.Description != "" {
		for line := range strings.SplitSeq(strings.TrimSuffix(c.Description, "\n"), "\n") {
			b.WriteString("#" + encodeText(line) + "\n")
		}
	}
	seen := map[string]bool{}
	for _, p := range c.Props {
		switch {
		case !propKey.MatchString(p.Key):
			return nil, p.invalid("is no key of a CT")
		case seen[p.Key]:
			return nil, p.invalid("is there twice")
		case p.Value == "":
			return nil, p.invalid("is empty")
		}
		seen[p.Key] = true
		if err := p.write(&b); err != nil {
			return nil, err
		}
	}
	for _, p := range c.Raw {
		if !rawKey.MatchString(p.Key) {
			return nil, p.invalid("is no key of LXC")
		}
		if err := p.write(&b); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func (p Prop) write(b *bytes.Buffer) error {
	// Proxmox's parser works on lines, and trims blanks.
	if strings.ContainsFunc(p.Value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return p.invalid("has other characters than printable ASCII")
	}
	if strings.TrimSpace(p.Value) != p.Value {
		return p.invalid("blanks around it would be lost")
	}
	b.WriteString(p.Key + ":")
	if p.Value != "" {
		b.WriteString(" " + p.Value)
	}
	b.WriteByte('\n')
	return nil
}

func (p Prop) invalid(why string) error {
	return fmt.Errorf("configuration of a CT, %s = %q: %s: %w", p.Key, p.Value, why, errdefs.ErrInvalidArgument)
}

const hex = "0123456789ABCDEF"

// encodeText is Proxmox's encode_text: ':', '%', and everything that is not
// printable ASCII, as %XX.
func encodeText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == ':' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// decodeText reverses it; what is no escape stays.
func decodeText(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := strings.IndexByte(hex, upper(s[i+1])), strings.IndexByte(hex, upper(s[i+2]))
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

var confLine = regexp.MustCompile(`^([a-z][a-z0-9_\-.]*)\s*[:=]\s*(.*?)\s*$`)

// ParseConf reads the first section of a configuration. Like Proxmox it passes
// over lines that it does not understand.
func ParseConf(text []byte) *Conf {
	c := &Conf{}
	var description []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "[") {
			break
		}
		if rest, ok := strings.CutPrefix(line, "#"); ok {
			description = append(description, decodeText(rest))
			continue
		}
		m := confLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case strings.HasPrefix(m[1], "lxc."):
			c.Raw = append(c.Raw, Prop{m[1], m[2]})
		default:
			c.Props = append(c.Props, Prop{m[1], m[2]})
		}
	}
	c.Description = strings.Join(description, "\n")
	return c
}

// Get returns the value of a property, "" without it.
func (c *Conf) Get(key string) string {
	for _, p := range c.Props {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// Tags of the CT.
func (c *Conf) Tags() []string {
	return strings.FieldsFunc(c.Get("tags"), func(r rune) bool { return strings.ContainsRune(",; ", r) })
}

// include returns the file that the line lxc.include names, "" unless there is
// exactly one.
func (c *Conf) include() string {
	var found []string
	for _, p := range c.Raw {
		if p.Key == "lxc.include" {
			found = append(found, p.Value)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// isOurs says whether the CT is one that was made here by Conf for this node
// and VMID. A clone, or a backup restored under another VMID, has the tag and
// the line as well, but with the VMID of what it was made of; a backup that was
// restored under the same VMID has a volume for a root file system. They are the user's.
func (c *Conf) isOurs(node string, vmid int) bool {
	return c.isOf(node, vmid) && strings.HasPrefix(c.Get("rootfs"), "/")
}

// isOf says whether the configuration was made here for this node and VMID, or
// is of a backup of such a CT.
func (c *Conf) isOf(node string, vmid int) bool {
	return slices.Contains(c.Tags(), Tag) && baseName(c.include()) == IncludeName(node, vmid)
}
