package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/lxc"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/storage"
)

// releases are the versions of pve-manager that the stand-in says it is.
var releases = map[ctconf.Version]string{
	ctconf.PVE7: "7.4-19", ctconf.PVE8: "8.4.14", ctconf.PVE90: "9.0.11", ctconf.PVE91: "9.1.4",
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func release() string { return releases[host.Version()] }

func runVersion([]string) error {
	fmt.Printf("pve-manager/%s/%s (running kernel: %s)\n", release(), "0123456789abcdef", kernel())
	return nil
}

// runPvesh is `pvesh get PATH [--output-format json] [--key value…]`.
func runPvesh(args []string) error {
	if len(args) < 2 {
		return host.DieCode(255, "ERROR: no command specified\nUSAGE: pvesh <COMMAND> [ARGS] [OPTIONS]")
	}
	if args[0] != "get" && args[0] != "ls" {
		return host.DieCode(255, "ERROR: unknown command 'pvesh %s'\nUSAGE: pvesh <COMMAND> [ARGS] [OPTIONS]", args[0])
	}
	options := map[string]string{}
	for i := 2; i < len(args); i++ {
		name, value, ok := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !ok && i+1 < len(args) {
			i++
			value = args[i]
		}
		options[name] = value
	}
	answer, err := get(strings.Trim(args[1], "/"), options)
	if err != nil {
		return err
	}
	if text, ok := answer.(string); ok && options["output-format"] == "" {
		fmt.Println(text)
		return nil
	}
	out := json.NewEncoder(os.Stdout)
	return out.Encode(answer)
}

type object = map[string]any

// get answers a request of the API.
func get(path string, options map[string]string) (any, error) {
	parts := strings.Split(path, "/")
	switch {
	case path == "version":
		return object{"version": release(), "release": release()[:3], "repoid": "0123456789abcdef"}, nil
	case path == "cluster/nextid":
		return nextID(options["vmid"])
	case path == "cluster/resources":
		return resources()
	case path == "nodes":
		return []object{{"node": host.Node(), "status": "online", "type": "node", "maxcpu": runtime.NumCPU()}}, nil
	case path == "storage" || len(parts) == 3 && parts[0] == "nodes" && parts[2] == "storage":
		return storages()
	case len(parts) >= 3 && parts[0] == "nodes" && parts[1] != host.Node():
		return nil, host.DieCode(2, "no such cluster node '%s'", parts[1])
	case len(parts) == 3 && parts[0] == "nodes" && parts[2] == "lxc":
		return resources()
	case len(parts) >= 5 && parts[0] == "nodes" && parts[2] == "lxc":
		return guest(parts[3], strings.Join(parts[4:], "/"))
	}
	return nil, host.DieCode(2, "No '%s' handler defined for '/%s'", "get", path)
}

// nextID is the lowest free id; it reserves nothing.
func nextID(asked string) (any, error) {
	guests, err := host.Guests()
	if err != nil {
		return nil, err
	}
	if asked != "" {
		id, err := strconv.Atoi(asked)
		if err != nil {
			return nil, host.DieCode(2, "400 Parameter verification failed.\nvmid: type check ('integer') failed - got '%s'", asked)
		}
		if _, ok := guests[id]; ok {
			return nil, host.DieCode(2, "400 Parameter verification failed.\nvmid: VM %d already exists", id)
		}
		return asked, nil
	}
	for id := 100; id < 1000000; id++ {
		if _, ok := guests[id]; !ok {
			return strconv.Itoa(id), nil
		}
	}
	return nil, host.Dief("unable to get any free VMID in range [100, 1000000]")
}

func resources() (any, error) {
	guests, err := host.Guests()
	if err != nil {
		return nil, err
	}
	all := []object{}
	for _, id := range slices.Sorted(maps.Keys(guests)) {
		g := guests[id]
		o := object{"vmid": id, "type": g.Type, "node": g.Node, "id": fmt.Sprintf("%s/%d", g.Type, id)}
		if g.Type == "lxc" && g.Node == host.Node() {
			c, err := host.Load(id)
			if err != nil {
				continue // just removed
			}
			for k, v := range Figures(id, c) {
				if k != "vmid" && k != "type" {
					o[k] = numeric(v)
				}
			}
		}
		all = append(all, o)
	}
	return all, nil
}

func numeric(v string) any {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n
	}
	return v
}

func storages() (any, error) {
	all, err := storage.Load()
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		list = append(list, object{"storage": name, "type": s.Type, "content": s.Opts["content"], "active": 1, "enabled": 1, "shared": 0,
			"total": int64(100) << 30, "avail": int64(50) << 30, "used": int64(50) << 30})
	}
	return list, nil
}

func guest(id, what string) (any, error) {
	vmid, err := strconv.Atoi(id)
	if err != nil {
		return nil, host.DieCode(2, "400 Parameter verification failed.\nvmid: type check ('integer') failed - got '%s'", id)
	}
	c, err := host.Load(vmid)
	if err != nil {
		return nil, err
	}
	switch what {
	case "status/current":
		o := object{}
		for k, v := range Figures(vmid, c) {
			o[k] = numeric(v)
		}
		return o, nil
	case "config":
		o := object{"digest": c.Digest}
		lxc.Merge(c)
		for k, v := range c.Props {
			o[k] = numeric(v)
		}
		if c.Description != "" {
			o["description"] = c.Description
		}
		raw := [][2]string{}
		for _, r := range c.Raw {
			raw = append(raw, [2]string{r.Key, r.Value})
		}
		if len(raw) > 0 {
			o["lxc"] = raw
		}
		return o, nil
	}
	return nil, host.DieCode(2, "No 'get' handler defined for '/nodes/%s/lxc/%d/%s'", host.Node(), vmid, what)
}
