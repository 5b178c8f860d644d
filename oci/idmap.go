package oci

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// IDMap maps the ids of a user namespace to those of the host. The zero value
// maps nothing.
type IDMap struct {
	UIDs []specs.LinuxIDMapping
	GIDs []specs.LinuxIDMapping
}

// IsZero says that there is no mapping.
func (m IDMap) IsZero() bool { return len(m.UIDs) == 0 && len(m.GIDs) == 0 }

// Equal says whether both map alike, whatever the order of their ranges.
func (m IDMap) Equal(other IDMap) bool {
	return slices.Equal(sorted(m.UIDs), sorted(other.UIDs)) && slices.Equal(sorted(m.GIDs), sorted(other.GIDs))
}

// String has the ranges as lxc.idmap does, with blanks between them.
func (m IDMap) String() string {
	var out []string
	for _, r := range sorted(m.UIDs) {
		out = append(out, "u "+rangeText(r))
	}
	for _, r := range sorted(m.GIDs) {
		out = append(out, "g "+rangeText(r))
	}
	return strings.Join(out, ", ")
}

func sorted(list []specs.LinuxIDMapping) []specs.LinuxIDMapping {
	return slices.SortedFunc(slices.Values(list), func(a, b specs.LinuxIDMapping) int {
		return int(int64(a.ContainerID) - int64(b.ContainerID))
	})
}

func rangeText(r specs.LinuxIDMapping) string {
	return fmt.Sprintf("%d %d %d", r.ContainerID, r.HostID, r.Size)
}

// HostUID is the host's id of a user of the namespace.
func (m IDMap) HostUID(id uint32) (uint32, bool) { return hostID(m.UIDs, id) }

// HostGID is the host's id of a group of the namespace.
func (m IDMap) HostGID(id uint32) (uint32, bool) { return hostID(m.GIDs, id) }

func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, r := range list {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			return r.HostID + (id - r.ContainerID), true
		}
	}
	return 0, false
}

const (
	// maxMappings is how many ranges a namespace has, since Linux 4.15
	// (user_namespaces(7)); all of them are written at once, in less than a
	// page.
	maxMappings    = 340
	maxMappingText = 4096
)

// checkMappings finds what the kernel would refuse with EINVAL (map_write in
// kernel/user_namespace.c), and says where it is.
func checkMappings(path string, list []specs.LinuxIDMapping) error {
	if len(list) > maxMappings {
		return invalid(path, nil, "has %d ranges: the kernel takes %d", len(list), maxMappings)
	}
	text := 0
	for i, r := range list {
		if err := checkRange(at(path, i), r); err != nil {
			return err
		}
		for j, other := range list[:i] {
			if overlap(r.ContainerID, other.ContainerID, r.Size, other.Size) {
				return invalid(at(path, i)+".containerID", r.ContainerID, "overlaps with %s", at(path, j))
			}
			if overlap(r.HostID, other.HostID, r.Size, other.Size) {
				return invalid(at(path, i)+".hostID", r.HostID, "overlaps with %s", at(path, j))
			}
		}
		text += len(rangeText(r)) + 1
	}
	if text >= maxMappingText {
		return invalid(path, nil, "takes %d bytes: the kernel takes fewer than %d", text, maxMappingText)
	}
	return nil
}

// checkRange refuses ranges that reach beyond the last id; 4294967295 is none.
func checkRange(path string, r specs.LinuxIDMapping) error {
	switch {
	case r.Size == 0:
		return invalid(path+".size", r.Size, "is no range")
	case uint64(r.ContainerID)+uint64(r.Size) > math.MaxUint32:
		return invalid(path+".containerID", r.ContainerID, "is beyond the last id with a size of %d", r.Size)
	case uint64(r.HostID)+uint64(r.Size) > math.MaxUint32:
		return invalid(path+".hostID", r.HostID, "is beyond the last id with a size of %d", r.Size)
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// translateIDMap checks linux.uidMappings and gidMappings against the user
// namespace of the spec. It is the last step, as it looks at every id in the
// plan. A namespace that is joined tells its mapping itself: SetIDMap.
func translateIDMap(in input, p *Plan) error {
	given := IDMap{UIDs: in.linux.UIDMappings, GIDs: in.linux.GIDMappings}
	for _, f := range []struct {
		path string
		list []specs.LinuxIDMapping
	}{{"linux.uidMappings", given.UIDs}, {"linux.gidMappings", given.GIDs}} {
		switch {
		case len(f.list) > 0 && !p.has(specs.UserNamespace):
			return invalid(f.path, nil, `needs a "user" namespace in linux.namespaces`)
		case len(f.list) == 0 && p.isNew(specs.UserNamespace):
			return invalid(f.path, nil, "is required for a new user namespace")
		}
	}
	if given.IsZero() {
		return nil
	}
	return p.SetIDMap(given)
}

// SetIDMap sets the mapping of the container's user namespace, and finds the
// properties whose ids it does not have. Translate has called it if the spec
// has a mapping: then the one of a namespace that is joined has to be the same.
func (p *Plan) SetIDMap(m IDMap) error {
	if !p.IDMap.IsZero() {
		if !p.IDMap.Equal(m) {
			return invalid("linux.uidMappings, linux.gidMappings", p.IDMap.String(), "are not those of the user namespace that is joined: %s", m)
		}
		return nil
	}
	if err := p.checkIDMap(m); err != nil {
		return err
	}
	for _, f := range []struct {
		path, kind string
		list       []specs.LinuxIDMapping
	}{{"linux.uidMappings", "u", m.UIDs}, {"linux.gidMappings", "g", m.GIDs}} {
		for i, r := range f.list {
			if err := p.config(at(f.path, i), "lxc.idmap", f.kind+" "+rangeText(r)); err != nil {
				return err
			}
		}
	}
	p.IDMap = m
	return p.checkIDs()
}

func (p *Plan) checkIDMap(m IDMap) error {
	if err := checkMappings("linux.uidMappings", m.UIDs); err != nil {
		return err
	}
	if err := checkMappings("linux.gidMappings", m.GIDs); err != nil {
		return err
	}
	const noRoot = "maps no id 0: LXC, and what is done in the container before the process is executed, need root"
	if _, ok := m.HostUID(0); !ok {
		return invalid("linux.uidMappings", nil, noRoot)
	}
	if _, ok := m.HostGID(0); !ok {
		return invalid("linux.gidMappings", nil, noRoot)
	}
	return nil
}

func (p *Plan) checkIDs() error {
	if err := p.CheckProcessIDs(p.Process); err != nil {
		return err
	}
	for _, d := range p.Devices {
		if _, ok := p.IDMap.HostUID(d.UID); !ok {
			return unmapped("linux.devices: "+quote(d.Path)+": uid", d.UID, "linux.uidMappings")
		}
		if _, ok := p.IDMap.HostGID(d.GID); !ok {
			return unmapped("linux.devices: "+quote(d.Path)+": gid", d.GID, "linux.gidMappings")
		}
	}
	return nil
}

func unmapped(path string, id uint32, mappings string) error {
	return invalid(path, id, "is not mapped by %s", mappings)
}

// CheckProcessIDs finds the ids of a process, of the container or an exec,
// that its user namespace does not have. Without one it finds nothing.
func (p *Plan) CheckProcessIDs(process *specs.Process) error {
	if p.IDMap.IsZero() {
		return nil
	}
	u := process.User
	if _, ok := p.IDMap.HostUID(u.UID); !ok {
		return unmapped("process.user.uid", u.UID, "linux.uidMappings")
	}
	if _, ok := p.IDMap.HostGID(u.GID); !ok {
		return unmapped("process.user.gid", u.GID, "linux.gidMappings")
	}
	for i, gid := range u.AdditionalGids {
		if _, ok := p.IDMap.HostGID(gid); !ok {
			return unmapped(at("process.user.additionalGids", i), gid, "linux.gidMappings")
		}
	}
	return nil
}

// UserNamespace says whether the container is in a user namespace other than
// the runtime's, as far as the spec says.
func (p *Plan) UserNamespace() bool { return p.has(specs.UserNamespace) }

// mountIDMap translates mounts[].uidMappings, gidMappings, and the options
// idmap and ridmap.
func (in input) mountIDMap(path string, t *Mount, m specs.Mount, o parsedOptions) error {
	own := IDMap{UIDs: m.UIDMappings, GIDs: m.GIDMappings}
	if own.IsZero() && !o.idmap {
		return nil
	}
	where := path + ".options"
	switch {
	case len(own.UIDs) > 0:
		where = path + ".uidMappings"
	case len(own.GIDs) > 0:
		where = path + ".gidMappings"
	}
	if t.Kind != MountBind {
		return invalid(where, nil, "are for bind mounts: ids are mapped in no other")
	}
	if len(own.UIDs) == 0 != (len(own.GIDs) == 0) {
		return invalid(where, nil, "uidMappings and gidMappings need each other")
	}
	if own.IsZero() && !in.hasUserNamespace() {
		return invalid(where, "idmap", "needs uidMappings and gidMappings, or a user namespace to take them from")
	}
	if err := checkMappings(path+".uidMappings", own.UIDs); err != nil {
		return err
	}
	if err := checkMappings(path+".gidMappings", own.GIDs); err != nil {
		return err
	}
	t.IDMap = &MountIDMap{Map: own, Recursive: o.ridmap}
	return nil
}

func (in input) hasUserNamespace() bool {
	return slices.ContainsFunc(in.linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
}
