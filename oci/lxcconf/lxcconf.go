// Package lxcconf writes the configuration file of an LXC container
// (lxc.container.conf(5)). It is the one place where a value enters that
// file, and refuses every value that the format can not carry: LXC has no
// quoting, so that a newline would be another key.
package lxcconf

import (
	"bytes"
	"fmt"
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

func (l Line) check() error {
	if !strings.HasPrefix(l.Key, "lxc.") || strings.Trim(l.Key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("lxc configuration key %q: %w", l.Key, errdefs.ErrInvalidArgument)
	}
	if i := strings.IndexFunc(l.Value, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("lxc configuration value %s = %q: control character: %w", l.Key, l.Value, errdefs.ErrInvalidArgument)
	}
	// LXC trims blanks, and one pair of quotes around the whole value.
	if v := strings.Trim(l.Value, " \t"); v != l.Value || quoted(v) {
		return fmt.Errorf("lxc configuration value %s = %q: blanks or quotes around it would be lost: %w", l.Key, l.Value, errdefs.ErrInvalidArgument)
	}
	return nil
}

func quoted(v string) bool {
	return len(v) > 1 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0]
}

// MountEntry returns an lxc.mount.entry line (fstab(5) syntax) with blanks in
// the fields escaped as \040.
func MountEntry(source, target, fstype, options string) Line {
	esc := strings.NewReplacer(`\`, `\134`, " ", `\040`)
	return Set("lxc.mount.entry", strings.Join([]string{
		esc.Replace(source), esc.Replace(strings.TrimPrefix(target, "/")), fstype, options, "0", "0",
	}, " "))
}
