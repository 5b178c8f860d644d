package pve

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// About is what the UI tells of a CT's container.
type About struct {
	Namespace string // of containerd
	ID        string
	Image     string // "" if it is not known, as the next
	Pod       string
	Command   []string
}

// maxCommand bounds the command in the description, in bytes.
const maxCommand = 500

// description is markdown for the UI: two blanks end a line.
func (a About) description() string {
	command := strings.Join(a.Command, " ")
	if len(command) > maxCommand {
		command = strings.ToValidUTF8(command[:maxCommand], "") + "…"
	}
	var b strings.Builder
	b.WriteString("Container of containerd, run by nexcage. containerd removes it.\n")
	for _, f := range []struct{ name, value string }{
		{"id", a.ID}, {"namespace", a.Namespace}, {"image", a.Image}, {"pod", a.Pod}, {"command", command},
	} {
		if f.value != "" {
			fmt.Fprintf(&b, "\n- **%s**: `%s`", f.name, plain(f.value))
		}
	}
	return b.String()
}

// plain keeps a value on its line and in its quotes.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '`' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// maxLabel is the length of a DNS label (RFC 1035).
const maxLabel = 63

// hostname makes a name that Proxmox accepts as a DNS name: labels of letters,
// digits and inner hyphens. "" becomes ct.
func hostname(s string) string {
	var labels []string
	for label := range strings.SplitSeq(s, ".") {
		label = strings.Map(func(r rune) rune {
			if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-') {
				return r
			}
			return '-'
		}, label)
		label = strings.Trim(label[:min(len(label), maxLabel)], "-")
		if label != "" {
			labels = append(labels, label)
		}
	}
	name := strings.Join(labels, ".")
	for len(name) > 253 { // the whole of a DNS name
		name = name[:strings.LastIndexByte(name, '.')]
	}
	if name == "" {
		return "ct"
	}
	return name
}

var tagChars = regexp.MustCompile(`[^a-z0-9_\-+.]+`)

// tag makes a tag that Proxmox accepts; "" if nothing is left.
func tag(s string) string {
	return strings.TrimLeft(tagChars.ReplaceAllString(strings.ToLower(s), "-"), "-+.")
}

// tags are in the form in which Proxmox writes them.
func tags(all ...string) string {
	var out []string
	for _, t := range all {
		if t = tag(t); t != "" {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ";")
}
