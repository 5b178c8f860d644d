package harness

import (
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
)

// Runtime is one way to run a container, as a client of containerd chooses it.
type Runtime struct {
	Name        string // in test names: lxc, crun, runc-shim
	Type        string // containerd's runtime name
	Options     any    // runtime options, or nil
	SpecVersion string // ociVersion to write, where the default is too new
	Backend     string // what runs the container: lxc or crun
	Reference   bool   // not ours: the runc shim that ours is compared with
}

const (
	nexcage = "io.containerd.nexcage.v2"
	runc    = "io.containerd.runc.v2"
)

// LXC is the nexcage shim with the LXC backend.
func LXC() Runtime {
	return Runtime{Name: "lxc", Type: nexcage, Options: Config("[routing]\ndefault_backend = \"lxc\"\n"), Backend: "lxc"}
}

// Crun is the nexcage shim with the crun backend.
func Crun() Runtime {
	return Runtime{Name: "crun", Type: nexcage, Options: Config("[routing]\ndefault_backend = \"crun\"\n"), Backend: "crun"}
}

// Reference is containerd's runc shim with crun. Debian 12's crun refuses
// ociVersions above 1.1.0, and this shim does not lower them.
func Reference() Runtime {
	return Runtime{
		Name: "runc-shim", Type: runc, Options: &runcoptions.Options{BinaryName: "crun"},
		SpecVersion: "1.1.0", Backend: "crun", Reference: true,
	}
}

// Config are runtime options that replace the shim's configuration file.
func Config(body string) *runtimeoptions.Options {
	return &runtimeoptions.Options{ConfigBody: []byte(body)}
}

// UserNS is the LXC backend that gives each container a user namespace of its
// own (lxc.userns). The ids are those of GiveIDs.
func UserNS(keys string) Runtime {
	body := "[routing]\ndefault_backend = \"lxc\"\n[lxc]\nuserns = \"auto\"\n" + keys
	return Runtime{Name: "lxc-userns", Type: nexcage, Options: Config(body), Backend: "lxc"}
}

// First subordinate ids of root in a session, see GiveIDs.
const FirstUID, FirstGID = 1000000, 500000000

// GiveIDs gives root ranges of subordinate ids in the session's /etc.
func GiveIDs(ranges int) error {
	for path, first := range map[string]int{"/etc/subuid": FirstUID, "/etc/subgid": FirstGID} {
		line := fmt.Sprintf("someone:1000:1\nroot:%d:%d\n", first, ranges*65536)
		if err := os.WriteFile(path, []byte(line), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Volume is the LXC backend on Proxmox with a volume of a storage for the root
// file system.
func Volume(storage string) Runtime {
	body := fmt.Sprintf("[routing]\ndefault_backend = \"lxc\"\n[lxc.pve]\nrootfs = \"volume\"\nstorage = %q\nsize = 1\n", storage)
	return Runtime{Name: "lxc-volume", Type: nexcage, Options: Config(body), Backend: "lxc"}
}
