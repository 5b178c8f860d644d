package pve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Show writes limits that are in force to the configuration of a CT, whose
// lxc.include must be the file given, for the UI to show them. What it says of others
// stays, as an operator may have set it. It goes by the rules of Proxmox's own tools,
// without the 0.6 s that they take: under the lock, not while there is a `lock:`,
// with the file replaced as a whole.
//
// ErrUnavailable if it can not be done now; then the UI shows the former ones.
func (n *Node) Show(ctx context.Context, vmid int, include string, r *specs.LinuxResources) error {
	changes := shown(r)
	if len(changes) == 0 {
		return nil
	}
	l, err := n.lock(ctx, vmid)
	if err != nil {
		return err
	}
	defer l.release()
	text, err := os.ReadFile(n.confPath(vmid))
	if err != nil {
		return fmt.Errorf("CT %d: %w", vmid, clusterError(err))
	}
	conf := ParseConf(text)
	if !conf.isOf(n.Name, vmid) || conf.include() != include {
		return fmt.Errorf("CT %d is not ours any more: %w", vmid, errdefs.ErrFailedPrecondition)
	}
	if lock := conf.Get("lock"); lock != "" {
		return fmt.Errorf("CT is locked (%s): CT %d: %w", lock, vmid, errdefs.ErrUnavailable)
	}
	edited, err := edit(text, changes)
	if err != nil || bytes.Equal(edited, text) {
		return err
	}
	return n.replace(vmid, text, edited)
}

// shown are the properties of a CT that resources change; one without a value
// goes away.
func shown(r *specs.LinuxResources) (changes []Prop) {
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		changes = append(changes, memoryProp(r))
		if m.Swap != nil || *m.Limit <= 0 {
			changes = append(changes, swapProp(r))
		}
	}
	changes = append(changes, cpu(r)...)
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota <= 0 {
		changes = append(changes, Prop{Key: cpuLimit})
	}
	return changes
}

// edit changes properties of the first section of a configuration. All else
// stays as it is, to the byte.
func edit(text []byte, changes []Prop) ([]byte, error) {
	lines := slices.Collect(strings.Lines(string(text)))
	if last := len(lines) - 1; last >= 0 && !strings.HasSuffix(lines[last], "\n") {
		lines[last] += "\n"
	}
	for _, p := range changes {
		var line bytes.Buffer
		if p.Value != "" {
			if err := p.write(&line); err != nil {
				return nil, err
			}
		}
		from, to := place(lines, p.Key)
		lines = slices.Concat(lines[:from], []string{line.String()}, lines[to:])
	}
	return []byte(strings.Join(lines, "")), nil
}

// place is where a property is, or where Proxmox would write it: sorted among the
// properties, before the raw keys and further sections.
func place(lines []string, key string) (from, to int) {
	from = -1
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			lines = lines[:i]
			break
		}
		m := confLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		switch {
		case m == nil:
		case m[1] == key:
			return i, i + 1
		case from < 0 && (strings.HasPrefix(m[1], "lxc.") || m[1] > key):
			from = i
		}
	}
	if from < 0 {
		from = len(lines)
	}
	return from, from
}

// replace replaces the configuration by one that was made of text. Those who
// edit the file itself know of no lock.
func (n *Node) replace(vmid int, text, by []byte) error {
	path := n.confPath(vmid)
	temporary := path + temporarySuffix
	if err := os.WriteFile(temporary, by, 0o640); err != nil {
		return fmt.Errorf("write the configuration of CT %d: %w", vmid, clusterError(errors.Join(err, removeIfThere(temporary))))
	}
	now, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(now, text) {
		err = fmt.Errorf("somebody has changed it meanwhile: %w", errdefs.ErrUnavailable)
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return fmt.Errorf("write the configuration of CT %d: %w", vmid, clusterError(errors.Join(err, removeIfThere(temporary))))
	}
	return nil
}

// temporarySuffix follows the name of a configuration that is being replaced.
const temporarySuffix = ".tmp.nexcage"
