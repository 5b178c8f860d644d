package cli_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorded is one command of the transcript of the genuine tools.
type recorded struct {
	line     string // as it stands there, without quotes
	rc       int
	out, err string
}

var recordedLine = regexp.MustCompile(`^\$ (pct.*?)\s+=> rc=(\d+)`)

// transcript reads it, up to the addendum, which is not about pct.
func transcript(t *testing.T) []recorded {
	t.Helper()
	text, err := os.ReadFile("testdata/pct-transcript.txt")
	require.NoError(t, err)
	var all []recorded
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "# addendum") {
			break
		}
		if m := recordedLine.FindStringSubmatch(line); m != nil {
			rc, err := strconv.Atoi(m[2])
			require.NoError(t, err)
			all = append(all, recorded{line: m[1], rc: rc})
		} else if len(all) > 0 {
			last := &all[len(all)-1]
			if text, ok := strings.CutPrefix(line, "  out| "); ok {
				last.out += text + "\n"
			} else if text, ok := strings.CutPrefix(line, "  err| "); ok {
				last.err += text + "\n"
			}
		}
	}
	require.Len(t, all, 61, "commands in the transcript")
	return all
}

// phrases are single arguments with blanks in them.
var phrases = []string{"line: two", "/bin/sleep 300", "echo o; echo e >&2; exit 5"}

func argv(line string) []string {
	for _, p := range phrases {
		line = strings.ReplaceAll(line, p, strings.ReplaceAll(p, " ", "\x00"))
	}
	args := strings.Fields(line)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "\x00", " ")
	}
	return args
}

// setup are commands that the transcript leaves out: 7103's first process ends
// at once, 7104's does not exist.
var setup = map[string][]string{
	"pct start 7103": {"pct", "create", "7103", "/srv/lab/empty.tar", "--rootfs", "/srv/lab/rootfs", "--ostype", "unmanaged", "--arch", "amd64", "--unprivileged", "0", "--entrypoint", "/bin/true"},
	"pct start 7104": {"pct", "create", "7104", "/srv/lab/empty.tar", "--rootfs", "/srv/lab/rootfs", "--ostype", "unmanaged", "--arch", "amd64", "--unprivileged", "0", "--entrypoint", "/nonexistent", "--console", "0", "--tty", "0"},
}

// varying is what depends on time or machine; nothing else is left out of the
// comparison.
var varying = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{"the speed of tar", regexp.MustCompile(`(Total bytes read: 10240 \(10KiB, ).*\)`)},
	{"the file system's random id", regexp.MustCompile(`(Filesystem UUID: ).*`)},
	{"use of the machine's disk, when running", regexp.MustCompile(`(?m)^(disk: )[1-9].*`)},
	{"size of the machine's disk, when running", regexp.MustCompile(`(?m)^(maxdisk: )\d{11,}`)},
	{"memory in use, when running", regexp.MustCompile(`(?m)^(mem: )[1-9].*`)},
	{"the process id", regexp.MustCompile(`(?m)^(pid: )[1-9].*`)},
	{"the time since its start", regexp.MustCompile(`(?m)^(uptime: ).*`)},
	{"the number of CPUs", regexp.MustCompile(`(?m)^(cpus: ).*`)},
	{"the numbers of the CPUs", regexp.MustCompile(`(?m)^(7101:  )[0-9 ]+$`)},
	{"the box around them", regexp.MustCompile(`(?m)^(-)-+$`)},
	{"lines of LXC's source", regexp.MustCompile(`((?:lxc_attach_run_command|start|sync_wait): )\d+`)},
}

func normal(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, "${1}…")
	}
	return text
}

// TestTranscript replays, line by line, what the genuine tools were recorded
// with: the same exit codes and the same text on the same streams.
func TestTranscript(t *testing.T) {
	lab(t)
	for _, want := range transcript(t) {
		if args, ok := setup[want.line]; ok {
			must(t, args...)
		}
		t.Run(want.line, func(t *testing.T) {
			got := run(t, argv(want.line)...)
			assert.Equal(t, want.rc, got.rc, "exit code")
			assert.Equal(t, normal(want.out), normal(got.out), "standard output")
			assert.Equal(t, normal(want.err), normal(got.err), "standard error")
		})
	}
}
