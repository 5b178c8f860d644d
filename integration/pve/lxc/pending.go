package lxc

import (
	"maps"
	"slices"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// ApplyPending makes pending changes of a stopped container current.
func ApplyPending(vmid int, c *ctconf.Conf) error {
	if len(c.Pending.Props) == 0 && c.Pending.Description == "" {
		return nil
	}
	Merge(c)
	return host.Write(vmid, c)
}

// Merge makes all pending changes current.
func Merge(c *ctconf.Conf) {
	for _, key := range ctconf.SplitList(c.Pending.Get("delete", "")) {
		delete(c.Props, key)
		if key == "description" {
			c.Description = ""
		}
	}
	delete(c.Pending.Props, "delete")
	maps.Copy(c.Props, c.Pending.Props)
	if c.Pending.Description != "" {
		c.Description = c.Pending.Description
	}
	c.Pending = ctconf.New().Pending
}

// hot are the properties that a running container takes at once; fast those
// that concern the configuration only (Config.pm, vmconfig_hotplug_pending).
var (
	hot  = []string{"memory", "swap", "cpulimit", "cpuunits"}
	fast = []string{"description", "onboot", "startup", "protection", "hostname", "hookscript", "cores", "tags", "lock"}
)

// Hotplug makes those pending changes of a running container current that it
// can take.
func Hotplug(vmid int, c *ctconf.Conf) error {
	limits := false
	var rest []string
	for _, key := range ctconf.SplitList(c.Pending.Get("delete", "")) {
		switch {
		case slices.Contains(hot, key):
			limits = true
			delete(c.Props, key)
		case slices.Contains(fast, key):
			delete(c.Props, key)
			if key == "description" {
				c.Description = ""
			}
		default:
			rest = append(rest, key)
		}
	}
	keep(c, rest)
	for key, value := range c.Pending.Props {
		switch {
		case slices.Contains(hot, key):
			limits = true
		case !slices.Contains(fast, key):
			continue
		}
		c.Props[key] = value
		delete(c.Pending.Props, key)
	}
	if c.Pending.Description != "" {
		c.Description, c.Pending.Description = c.Pending.Description, ""
	}
	if limits {
		return Apply(vmid, Limits(c))
	}
	return nil
}

func keep(c *ctconf.Conf, deleted []string) {
	delete(c.Pending.Props, "delete")
	if len(deleted) > 0 {
		text := deleted[0]
		for _, d := range deleted[1:] {
			text += "," + d
		}
		c.Pending.Props["delete"] = text
	}
}
