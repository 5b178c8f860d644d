// Package lxcconf writes the configuration file of an LXC container
// (lxc.container.conf(5)). It is the one place where a value enters that
// file, and refuses every value that the format can not carry: LXC has no
// quoting, so that a newline would be another key.
package lxcconf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Line is one "key = value" of the file.
type Line struct {
	Key   string
	Value string
}

// Set returns a line.
func Set(key, value string) Line { return Line{Key: key, Value: value} }

// Marshal encodes lines in order. It fails with ErrInvalidArgument for a key
// that is not an LXC key and for a value that would not be read back as it is.
func Marshal(lines []Line) ([]byte, error) {
	var b bytes.Buffer
	for _, l := range lines {
		if err := l.check(); err != nil {
			return nil, err
		}
		b.WriteString(l.Key)
		b.WriteString(" =")
		if l.Value != "" {
			b.WriteByte(' ')
			b.WriteString(l.Value)
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

const keyChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func (l Line) check() error {
	if !strings.HasPrefix(l.Key, "lxc.") || strings.Trim(l.Key, keyChars) != "" {
		return fmt.Errorf("lxc configuration key %q: %w", l.Key, errdefs.ErrInvalidArgument)
	}
	if strings.ContainsFunc(l.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return l.invalid("control character")
	}
	// LXC trims blanks, and one pair of quotes around the whole value.
	if strings.Trim(l.Value, " ") != l.Value || quoted(l.Value) {
		return l.invalid("blanks or quotes around it would be lost")
	}
	if l.Key == mountEntry {
		return l.checkMountEntry()
	}
	return nil
}

func (l Line) invalid(why string) error {
	return fmt.Errorf("lxc configuration value %s = %q: %s: %w", l.Key, l.Value, why, errdefs.ErrInvalidArgument)
}

func quoted(v string) bool {
	return len(v) > 1 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0]
}

const (
	mountEntry = "lxc.mount.entry"

	// maxMountEntry is a bit less than the 4096 bytes into which LXC reads an
	// entry with getmntent_r(3), which cuts a longer one.
	maxMountEntry = 4000
)

// checkMountEntry refuses what getmntent(3) would read as something else.
func (l Line) checkMountEntry() error {
	if l.Value == "" {
		return nil // forgets the entries before
	}
	fields := strings.Split(l.Value, " ")
	switch {
	case len(fields) != 6 || slices.Contains(fields, ""):
		return l.invalid("not the six fields of fstab(5)")
	case strings.HasPrefix(l.Value, "#"):
		return l.invalid("would be a comment")
	case len(l.Value) > maxMountEntry:
		return l.invalid(fmt.Sprintf("longer than %d bytes", maxMountEntry))
	}
	return nil
}

// fstabEscape is what getmntent(3) reverses.
var fstabEscape = strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)

// MountEntry returns an lxc.mount.entry line. target is relative to the root
// file system of the container.
func MountEntry(source, target, fstype, options string) Line {
	fields := []string{source, strings.TrimPrefix(target, "/"), fstype, options, "0", "0"}
	for i, f := range fields {
		fields[i] = fstabEscape.Replace(f)
	}
	return Set(mountEntry, strings.Join(fields, " "))
}
