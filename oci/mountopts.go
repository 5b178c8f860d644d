package oci

import (
	"golang.org/x/sys/unix"
)

// mountOption is what an option of the runtime-spec's table does ("Linux
// mount options" in config.md).
type mountOption struct {
	// set and clear are attributes (MOUNT_ATTR_) of the mount, or of the
	// whole tree if rec is set.
	set, clear uint64
	rec        bool
	// kernelAtime is for the options that withdraw relatime or strictatime:
	// the kernel's default (relatime) is left, but noatime stays.
	kernelAtime bool

	propagation uint64 // MS_PRIVATE ..., maybe with MS_REC

	// fs is an option of the file system, not of the mount: noFS withdraws
	// it.
	fs, noFS string

	bind, rbind, remount, copyUp, idmap bool
}

// atime is a field, not a bit: 0 is relatime. mount_setattr(2) wants all of
// it cleared whenever a part is set.
const atime = unix.MOUNT_ATTR__ATIME

// mountOptions are the options that mean the same for every file system. Any
// other is the file system's own.
var mountOptions = func() map[string]mountOption {
	m := map[string]mountOption{
		"defaults": {},
		"silent":   {}, // what it silences is the kernel's log
		"loud":     {},

		"bind":    {bind: true},
		"rbind":   {bind: true, rbind: true},
		"remount": {remount: true},

		"tmpcopyup": {copyUp: true},
		"idmap":     {idmap: true},
		"ridmap":    {idmap: true, rec: true},

		"sync":       {fs: "sync"},
		"async":      {noFS: "sync"},
		"dirsync":    {fs: "dirsync"},
		"lazytime":   {fs: "lazytime"},
		"nolazytime": {noFS: "lazytime"},
		"mand":       {fs: "mand"},
		"nomand":     {noFS: "mand"},
		"iversion":   {fs: "iversion"},
		"noiversion": {noFS: "iversion"},
	}
	for name, flags := range propagations {
		m[name] = mountOption{propagation: flags}
	}
	for name, o := range attributeOptions {
		m[name] = o
		o.rec = true
		m["r"+name] = o
	}
	return m
}()

// attributeOptions are those that exist in a recursive form as well, with an
// r before the name.
var attributeOptions = map[string]mountOption{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: atime},
	"atime":         {clear: atime},
	"relatime":      {clear: atime},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: atime},
	"norelatime":    {kernelAtime: true},
	"nostrictatime": {kernelAtime: true},
}

// attributes are what mount_setattr(2) sets and clears. The last option
// counts of those that contradict each other.
type attributes struct{ set, clear uint64 }

func (a *attributes) apply(o mountOption) {
	if o.kernelAtime {
		if a.set&atime == unix.MOUNT_ATTR_NOATIME {
			return
		}
		o.clear = atime
	}
	a.set = a.set&^o.clear | o.set
	a.clear = a.clear&^o.set | o.clear
}
