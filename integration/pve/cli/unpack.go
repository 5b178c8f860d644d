package cli

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// backupConf is where a backup has its container's configuration.
const backupConf = "etc/vzdump/pct.conf"

// backup reads the configuration out of a backup, but for one that comes
// through a pipe.
func (c *creation) backup(archive string) (*ctconf.Conf, error) {
	if !c.restores() || archive == "-" {
		return nil, nil
	}
	fmt.Printf("recovering backed-up configuration from '%s'\n", c.argv["ostemplate"])
	if _, err := os.Stat(archive); err != nil {
		return nil, c.noArchive(archive)
	}
	text, err := exec.Command("tar", "-xOf", archive, "./"+backupConf).Output()
	if err != nil {
		return nil, host.Dief("unable to restore CT %d - no configuration in the archive", c.vmid)
	}
	backup := ctconf.Parse(c.vmid, string(text), host.Version())
	if _, ok := c.conf.Props["unprivileged"]; !ok && backup.On("unprivileged") {
		c.conf.Props["unprivileged"] = "1"
	}
	fmt.Printf("restoring '%s' now..\n", c.argv["ostemplate"])
	return backup, nil
}

// unpack fills the container's root from the archive.
func (c *creation) unpack(archive string) error {
	in := os.Stdin
	if archive == "-" {
		fmt.Println("extracting archive from STDIN")
	} else {
		fmt.Printf("extracting archive '%s'\n", archive)
		f, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	argv := []string{"tar", "xpf", "-"}
	for suffix, flag := range map[string]string{".gz": "-z", ".bz2": "-j", ".xz": "-J", ".lzo": "--lzop", ".zst": "--zstd"} {
		if strings.HasSuffix(archive, suffix) {
			argv = append(argv, flag)
		}
	}
	argv = append(argv, "--totals", "--one-file-system", "-p", "--sparse", "--numeric-owner", "--acls",
		"--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability", "--warning=no-file-ignored", "--warning=no-xattr-write",
		"-C", c.root, "--skip-old-files", "--anchored", "--exclude", "./dev/*")
	if c.conf.On("unprivileged") {
		argv = append([]string{"lxc-usernsexec", "-m", "u:0:100000:65536", "-m", "g:0:100000:65536", "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, os.Stdout, os.Stdout
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !c.on("ignore-unpack-errors") {
		return host.Dief("command '%s' failed: exit code %d", strings.Join(argv, " "), exit.ExitCode())
	}
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if c.restores() {
		return c.merge()
	}
	return nil
}

// merge takes from the backup's configuration what was not given. It may
// have raw lines: only root restores.
func (c *creation) merge() error {
	fmt.Println("merging backed-up and given configuration..")
	path := filepath.Join(c.root, backupConf)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	backup := ctconf.Parse(c.vmid, string(text), host.Version())
	for _, w := range backup.Warnings {
		fmt.Println(w)
	}
	for key, value := range backup.Props {
		name, _ := ctconf.Property(key, host.Version())
		switch {
		case name == "rootfs", name == "mp", name == "unprivileged", name == "parent", name == "lock":
		case c.given(key):
		default:
			c.conf.Props[key] = value
		}
	}
	if c.conf.Description == "" {
		c.conf.Description = backup.Description
	}
	c.conf.Raw = append(c.conf.Raw, backup.Raw...)
	c.conf.Env = append(c.conf.Env, backup.Env...)
	for _, name := range []string{"pct.conf", "pct.fw"} {
		if err := os.Remove(filepath.Join(filepath.Dir(path), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *creation) given(key string) bool {
	_, ok := c.opts[key]
	return ok
}

// detect fills in what the files tell: ostype and arch.
func (c *creation) detect() error {
	if c.conf.Props["ostype"] == "" {
		ostype, err := osType(c.root)
		if err != nil {
			return err
		}
		c.conf.Props["ostype"] = ostype
	}
	if c.conf.Props["arch"] == "" {
		c.conf.Props["arch"] = "amd64"
		if c.conf.Props["ostype"] == "unmanaged" {
			fmt.Printf("Falling back to amd64.\nUse `pct set VMID --arch ARCH` to change.\n")
		}
	}
	return nil
}

// osType reads /etc/os-release.
func osType(root string) (string, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	text, err := dir.ReadFile("etc/os-release")
	if err != nil {
		return "", host.Dief("unable to detect OS distribution")
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if id, ok := strings.CutPrefix(s.Text(), "ID="); ok {
			id = strings.Trim(id, `"'`)
			if _, err := ctconf.Check("ostype", id, host.Version()); err == nil {
				return id, nil
			}
			return "", host.Dief("unsupported distribution '%s'", id)
		}
	}
	return "", host.Dief("unable to detect OS distribution")
}

// withMAC gives a network device a hardware address of Proxmox's.
func withMAC(value string) string {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	value += fmt.Sprintf(",hwaddr=BC:24:11:%02X:%02X:%02X", b[0], b[1], b[2])
	sorted, err := ctconf.Check("net0", value, host.Version())
	if err != nil {
		return value
	}
	return sorted
}
