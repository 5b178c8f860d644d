package crun

import "strings"

// stderrOf returns where stderr goes. With a file as stdout and nothing as
// stderr, containerd's service would panic, and take all containers with it;
// it writes both to the file of stdout anyway.
func stderrOf(terminal bool, stdout, stderr string) string {
	if !terminal && stderr == "" && strings.HasPrefix(stdout, "file:") {
		return stdout
	}
	return stderr
}
