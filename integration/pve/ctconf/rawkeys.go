package ctconf

import "strings"

// Version is the version of Proxmox VE whose rules hold, as major*100+minor:
// 704, 804, 900, 901.
type Version int

// Versions in which the rules change.
const (
	PVE7  Version = 704
	PVE8  Version = 804
	PVE90 Version = 900
	PVE91 Version = 901
)

// rawKeys are the keys that may stand in a configuration (Config.pm,
// $valid_lxc_conf_keys), with the first version that takes them.
var rawKeys = map[string]Version{}

func init() {
	for _, group := range []struct {
		since Version
		keys  string
	}{
		{PVE7, `apparmor.profile apparmor.allow_incomplete apparmor.allow_nesting apparmor.raw selinux.context include arch uts.name
			signal.halt signal.reboot signal.stop init.cmd pty.max console.logfile console.path tty.max devtty.dir autodev kmsg
			mount.fstab mount.entry mount.auto rootfs.mount cap.drop cap.keep seccomp.profile seccomp.notify.proxy seccomp.notify.cookie
			idmap hook.pre-start hook.pre-mount hook.mount hook.autodev hook.start hook.stop hook.post-stop hook.clone hook.destroy hook.version
			log.level log.file start.auto start.delay start.order group environment
			sysctl.fs.mqueue sysctl.kernel.msgmax sysctl.kernel.msgmnb sysctl.kernel.msgmni sysctl.kernel.sem
			sysctl.kernel.shmall sysctl.kernel.shmmax sysctl.kernel.shmmni sysctl.kernel.shm_rmid_forced`},
		{PVE91, `init.cwd init.uid init.gid init.groups environment.runtime environment.hooks`},
	} {
		for _, key := range strings.Fields(group.keys) {
			rawKeys["lxc."+key] = group.since
		}
	}
}

// rejected keys have an explanation of their own.
var rejected = map[string]string{
	"lxc.rootfs.path":    `lxc.rootfs.path is auto generated from rootfs`,
	"lxc.rootfs.options": `lxc.rootfs.options is not supported, please use mount point options in the "rootfs" key`,
}

// rawKey says whether a raw key is kept, and what is warned about it.
func rawKey(key string, version Version) (allowed bool, message string) {
	if message, ok := rejected[key]; ok {
		return false, message
	}
	for _, prefix := range []string{"lxc.cgroup2.", "lxc.prlimit.", "lxc.net."} {
		if strings.HasPrefix(key, prefix) {
			return true, ""
		}
	}
	if strings.HasPrefix(key, "lxc.cgroup.") {
		if version >= PVE91 {
			return true, "cgroup v1 entries are deprecated, please use 'lxc.cgroup2.*' instead"
		}
		return true, ""
	}
	since, ok := rawKeys[key]
	return ok && version >= since, ""
}
