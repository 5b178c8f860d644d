package vm

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// packages are those of an image, beside mmdebstrap's minimal ones.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "cpio", "xz-utils",
	"lxc", "crun", "apparmor", "containerd", "containernetworking-plugins",
	"busybox-static", "e2fsprogs", "iproute2", "iptables", "less", "procps", "strace",
}

// omitted are paths of packages that no test looks at.
var omitted = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"}

// files are laid over the packages' (as they are named below it), and setup
// is run in the new system afterwards.
//
//go:embed guest
var guest embed.FS

// size of the file system. The file has holes: it takes what is in it.
const size = "3G"

// Image is a root file system, and the kernel that starts it.
type Image struct {
	Distribution     string
	Root, Kernel, RD string // paths
}

// FindImage names the image of a distribution, whether or not it is there.
func FindImage(cache, distribution string) (Image, error) {
	if err := checkDistribution(distribution); err != nil {
		return Image{}, err
	}
	key, err := imageKey(distribution)
	if err != nil {
		return Image{}, err
	}
	base := filepath.Join(cache, distribution+"-"+key)
	return Image{Distribution: distribution, Root: base + ".ext4", Kernel: base + ".vmlinuz", RD: base + ".initrd"}, nil
}

// imageKey stands for everything that an image is made of, but the versions of
// the packages.
func imageKey(distribution string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, distribution, packages, omitted, size)
	err := fs.WalkDir(guest, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := guest.ReadFile(name)
		fmt.Fprintf(h, "%s %q\n", name, text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:12], err
}

// MakeImage makes the image if it is not there. It takes two minutes, and
// what it prints goes to log.
func MakeImage(ctx context.Context, cache, distribution string, log *os.File) (Image, error) {
	img, err := FindImage(cache, distribution)
	if err != nil {
		return Image{}, err
	}
	// The root is renamed into place last.
	if _, err := os.Stat(img.Root); err == nil {
		return img, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if _, err := os.Stat(img.Root); err == nil {
		return img, nil // made meanwhile
	}
	fmt.Fprintf(log, "making %s\n", img.Root)
	return img, img.make(ctx, cache, log)
}

func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-got:
	case <-ctx.Done():
		return nil, ctx.Err() // the program is about to end, and f with it
	}
	return func() { _ = f.Close() }, err
}

func (img Image) make(ctx context.Context, cache string, log *os.File) (err error) {
	dir, err := os.MkdirTemp(cache, "make-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeUnmounted(dir)) }()
	tree, overlay, disk := filepath.Join(dir, "root"), filepath.Join(dir, "guest"), filepath.Join(dir, "ext4")
	if err := writeGuest(overlay); err != nil {
		return err
	}
	mirror, err := mirrorOf(ctx)
	if err != nil {
		return err
	}
	if err := bootstrap(ctx, log, img.Distribution, mirror, tree, overlay); err != nil {
		return err
	}
	if err := makeDisk(ctx, log, tree, disk, "root", size); err != nil {
		return err
	}
	for _, m := range [][2]string{{"boot/vmlinuz-*", img.Kernel}, {"boot/initrd.img-*", img.RD}} {
		found, err := filepath.Glob(filepath.Join(tree, m[0]))
		if err != nil || len(found) != 1 {
			return errors.Join(err, fmt.Errorf("%d files are %s in the new system, not one", len(found), m[0]))
		}
		if err := os.Rename(found[0], m[1]); err != nil {
			return err
		}
	}
	return os.Rename(disk, img.Root)
}

// writeGuest writes the embedded files into a directory. A file in a bin
// directory is executable: embedding does not keep modes.
func writeGuest(dir string) error {
	return fs.WalkDir(guest, "guest", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(name, "guest"))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		text, err := guest.ReadFile(name)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(path.Dir(name), "bin") {
			mode = 0o755
		}
		return os.WriteFile(to, text, mode)
	})
}

// mirrorOf returns the address of Debian's packages that this machine uses.
func mirrorOf(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Debian" && f[1] == "main" {
			return f[2], nil
		}
	}
	return "", errors.New("apt knows no mirror of Debian: is this a Debian, and has `apt-get update` been run?")
}

func bootstrap(ctx context.Context, log *os.File, distribution, mirror, tree, overlay string) error {
	argv := []string{
		"mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase", "--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--essential-hook=tar -C " + overlay + " -c . | tar -C \"$1\" --no-same-owner -x",
		"--customize-hook=chroot \"$1\" /usr/local/sbin/image-setup",
	}
	for _, o := range omitted {
		argv = append(argv, "--dpkgopt=path-exclude="+o)
	}
	return run(ctx, log, append(argv, distribution, tree, mirror)...)
}

// makeDisk makes an ext4 file system with the files of a directory.
func makeDisk(ctx context.Context, log *os.File, tree, disk, label, size string) error {
	return run(ctx, log, "mke2fs", "-q", "-t", "ext4", "-L", label, "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1", "-d", tree, disk, size)
}

// run runs a program in a mount namespace of its own, so that no mount of it
// is left.
func run(ctx context.Context, log *os.File, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// removeUnmounted removes a directory, unless something is mounted there.
func removeUnmounted(dir string) error {
	below, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	if len(below) > 0 {
		return fmt.Errorf("%s is not removed: %s is a mount point", dir, below[0].Mountpoint)
	}
	return os.RemoveAll(dir)
}
