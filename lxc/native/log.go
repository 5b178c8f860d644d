package native

import (
	"os"
	"regexp"
	"strings"
)

// prefix of what liblxc prints: program, container, source file, function and
// line, of which only the function tells a user anything.
var prefix = regexp.MustCompile(`^lxc-start: [^:]*: (?:\S+\.c: )?(\w+: )?(?:\d+ )?`)

// startLog returns the messages of lxc-start in one line, the first cause
// first. LXC reports a failure from the bottom up.
func startLog(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(prefix.ReplaceAllString(strings.TrimSpace(line), ""))
		// Harmless in a base directory that has no /dev.
		if line == "" || strings.Contains(line, "Can't open /dev/null") || strings.HasPrefix(line, "To get more details") || strings.HasPrefix(line, "Additional information") {
			continue
		}
		out = append(out, line)
	}
	if len(out) == 0 {
		return "no message", nil
	}
	return strings.Join(out, "; "), nil
}
