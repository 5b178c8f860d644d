package pve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/lxc/image"
)

// TemplateTag marks templates in the UI, beside Tag.
const TemplateTag = "nexcage-template"

// Template is an image on a storage, as a template of Proxmox that containers'
// volumes are clones of.
type Template struct {
	Node    string    `json:"node"`
	VMID    int       `json:"vmid"`
	Key     string    `json:"key"` // of the image
	Storage string    `json:"storage"`
	GiB     int       `json:"size"`
	Image   string    `json:"image,omitempty"` // its name, as far as it is known
	Token   string    `json:"token"`           // its host name
	Made    bool      `json:"made"`            // complete: until then it is never used
	Full    bool      `json:"full,omitempty"`  // the storage has no linked clones
	Added   []string  `json:"added,omitempty"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"-"` // when it was cloned last: the time of the record
}

// name of the template: images, storages and sizes have templates of their own.
func (t *Template) name() string { return fmt.Sprintf("%s-%s-%d", t.Key, t.Storage, t.GiB) }

func (v *Volumes) templateDir() string { return filepath.Join(v.Dir, "templates") }

func (v *Volumes) templatePath(name string) string {
	return filepath.Join(v.templateDir(), name+".json")
}

// Templates lists the templates of this node, with those that are being made.
func (v *Volumes) Templates() (all []Template, err error) {
	paths, err := records(v.templateDir())
	for _, path := range paths {
		t, rerr := readTemplate(path)
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		if t.VMID != 0 {
			all = append(all, t)
		}
	}
	return all, err
}

// readTemplate returns the zero value without a record.
func readTemplate(path string) (t Template, err error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	err = readRecord(path, &t)
	t.Used = st.ModTime()
	return t, err
}

// template returns the template of an image, which is made if there is none. It
// is there until the guard is released.
func (v *Volumes) template(ctx context.Context, c *Config, img Image) (*Template, *guard, error) {
	key, err := img.Key()
	if err != nil {
		return nil, nil, err
	}
	want := &Template{Node: v.Node.Name, Key: key, Storage: c.Root.Storage, GiB: c.Root.GiB, Image: c.Image}
	path := v.templatePath(want.name())
	for {
		g, err := v.guard(ctx, path, unix.LOCK_SH)
		if err != nil {
			return nil, nil, err
		}
		t, err := v.usable(path)
		if t != nil {
			return t, g, touch(path)
		}
		g.release()
		if err != nil {
			return nil, nil, err
		}
		if err := v.provide(ctx, c, want, img); err != nil {
			return nil, nil, fmt.Errorf("template of the image on storage %s: %w", want.Storage, err)
		}
	}
}

// touch sets the time of last use.
func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// usable returns nil if there is no template that is complete and ours.
func (v *Volumes) usable(path string) (*Template, error) {
	t, err := readTemplate(path)
	if err != nil || !t.Made {
		return nil, err
	}
	conf, err := v.Node.conf(t.VMID)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil // an operator has removed it
	}
	if err != nil {
		return nil, err
	}
	if !t.isIn(conf, v.Node.Name) || conf.Get("template") != "1" && !t.Full {
		return nil, nil
	}
	return &t, nil
}

// isIn says whether a configuration is that of the template. A clone names
// another VMID than its own.
func (t *Template) isIn(conf *Conf, node string) bool {
	return conf.isOf(node, t.VMID) && slices.Contains(conf.Tags(), TemplateTag) && ownsRoot(conf, t.VMID)
}

// ownsRoot says whether the root file system is a volume that is named after
// the VMID, as every storage of Proxmox does it.
func ownsRoot(conf *Conf, vmid int) bool {
	volume, _, _ := strings.Cut(conf.Get("rootfs"), ",")
	storage, name, ok := strings.Cut(volume, ":")
	return ok && storage != "" && !strings.HasPrefix(volume, "/") && strings.Contains(filepath.Base(name), "-"+strconv.Itoa(vmid)+"-")
}

// provide makes the template, unless somebody else just did.
func (v *Volumes) provide(ctx context.Context, c *Config, t *Template, img Image) error {
	path := v.templatePath(t.name())
	g, err := v.guard(ctx, path, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer g.release()
	if t, err := v.usable(path); t != nil || err != nil {
		return err
	}
	if err := v.dropHalfMade(ctx, path, g); err != nil {
		return err
	}
	begin := time.Now()
	if err := v.makeTemplate(ctx, c, t, img, g); err != nil {
		v.afterFailure(ctx, g, func(ctx context.Context, g *guard) error { return v.dropHalfMade(ctx, path, g) })
		return err
	}
	log.G(ctx).WithFields(log.Fields{"vmid": t.VMID, "storage": t.Storage, "took": time.Since(begin).Round(time.Millisecond).String()}).
		Info("copied the image to a template")
	return nil
}

// dropHalfMade removes what a template's making left behind, if any.
func (v *Volumes) dropHalfMade(ctx context.Context, path string, g *guard) error {
	t, err := readTemplate(path)
	if err != nil {
		return err
	}
	if t.VMID != 0 {
		if err := v.discard(ctx, g, t.VMID, t.Token, func(c *Conf) bool { return t.isIn(c, v.Node.Name) }); err != nil {
			return err
		}
	}
	return removeRecord(path)
}

func (v *Volumes) makeTemplate(ctx context.Context, c *Config, t *Template, img Image, g *guard) error {
	client, path := v.Client.holding(g), v.templatePath(t.name())
	t.Created, t.Token = time.Now().UTC(), token()
	for tries := 0; ; tries++ {
		vmid, err := v.Node.pick(c.Range)
		if err != nil {
			return err
		}
		t.VMID = vmid
		if err := writeRecord(path, t); err != nil {
			return err
		}
		err = t.restore(ctx, client, img, filepath.Join(v.templateDir(), t.name()))
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			// Another node was faster: what is there is not ours, however it
			// looks.
			if rerr := removeRecord(path); rerr != nil || tries == maxTries {
				return errors.Join(err, rerr)
			}
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	conf, err := v.Node.conf(t.VMID)
	if err != nil {
		return err
	}
	if !t.isIn(conf, v.Node.Name) {
		return fmt.Errorf("pct restore %d: the CT is not as the stream has it: %w", t.VMID, errdefs.ErrFailedPrecondition)
	}
	err = client.Template(ctx, t.VMID)
	if errors.Is(err, errNoTemplate) { // a CT that nobody can start does as well
		t.Full, err = true, nil
	}
	if err != nil {
		return err
	}
	t.Made = true
	return writeRecord(path, t)
}

// maxTries bounds how often another node may take the VMID that was chosen.
const maxTries = 20

// restore streams the image into a new CT. dir is where the file of LXC's keys
// would be: without it a copy does not start by accident.
func (t *Template) restore(ctx context.Context, client *Client, img Image, dir string) error {
	conf, err := t.conf(filepath.Join(dir, IncludeName(t.Node, t.VMID)))
	if err != nil {
		return err
	}
	// An image's own would be taken for that of a backup.
	files := []image.File{{Path: "etc/vzdump/pct.conf", Content: conf}, {Path: "etc/vzdump/pct.fw"}}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	// A reader that hangs with its storage must not hold up who gives up.
	defer context.AfterFunc(ctx, func() { _ = out.Close() })()
	streamed := make(chan error, 1)
	go func() {
		added, err := img.Stream(ctx, out, files)
		t.Added = added
		streamed <- errors.Join(err, out.Close())
	}()
	err = client.Restore(ctx, t.VMID, in, Volume{t.Storage, t.GiB}, t.Token)
	_ = in.Close() // nobody reads any more: the stream ends
	serr := <-streamed
	if err != nil {
		return err // and what the stream says is its consequence, if anything
	}
	return serr // which tar may have taken for the end
}

// conf is the template as the UI shows it.
func (t *Template) conf(include string) ([]byte, error) {
	about := "Template of nexcage: an image of containerd, whose containers are clones of it. `containerd-shim-nexcage-v2 gc` removes it.\n"
	for _, f := range [][2]string{{"image", t.Image}, {"key", t.Key}} {
		if f[1] != "" {
			about += fmt.Sprintf("\n- **%s**: `%s`", f[0], plain(f[1]))
		}
	}
	conf := &Conf{
		Description: about,
		Props: []Prop{
			{"arch", arch()}, {"memory", "16"}, {"onboot", "0"}, {"ostype", "unmanaged"}, {"swap", "0"}, {"tags", tags(Tag, TemplateTag)},
		},
		Raw: []Prop{{"lxc.include", include}},
	}
	return conf.Marshal()
}
