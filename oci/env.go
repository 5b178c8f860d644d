package oci

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"
)

// prepareEnv makes the environment as runc does: the last of several values
// of a variable counts, and HOME is added if it is not there or empty. Without
// any environment in the spec there is none.
func prepareEnv(env []string, home func() string) []string {
	if env == nil {
		return nil
	}
	seen, hasHome := map[string]bool{}, false
	out := make([]string, 0, len(env)+1)
	for _, kv := range slices.Backward(env) {
		name, value, _ := strings.Cut(kv, "=")
		if seen[name] {
			continue
		}
		seen[name] = true
		if name == "HOME" && value == "" {
			continue
		}
		hasHome = hasHome || name == "HOME"
		out = append(out, kv)
	}
	slices.Reverse(out)
	if !hasHome {
		out = append(out, "HOME="+homeOr(home))
	}
	return out
}

const defaultHome = "/"

func homeOr(home func() string) string {
	if home != nil {
		if h := home(); h != "" {
			return h
		}
	}
	return defaultHome
}

func getenv(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// HomeDir finds the home directory of a user in the content of a passwd(5)
// file, "" if it is not there. It reads at most 1 MiB: the file is the
// image's, and may be anything.
func HomeDir(passwd io.Reader, uid uint32) string {
	const maxPasswd = 1 << 20
	want := strconv.FormatUint(uint64(uid), 10)
	lines := bufio.NewScanner(io.LimitReader(passwd, maxPasswd))
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) >= 6 && f[2] == want && strings.IndexByte(f[5], 0) < 0 {
			return f[5]
		}
	}
	return ""
}
