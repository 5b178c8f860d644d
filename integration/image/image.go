// Package image builds the few OCI images that the integration tests run,
// from the machine's static busybox and without a registry.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of the images.
const (
	Busybox = "docker.io/nexcage/busybox:test" // an ordinary small userland
	Scratch = "docker.io/nexcage/scratch:test" // one static binary, /busybox, and nothing else
	Crooked = "docker.io/nexcage/crooked:test" // symlinks that lead out, where volumes and files are mounted
	Hostile = "docker.io/nexcage/hostile:test" // and at /dev, /proc and /sys too
)

// File is an entry of an image's only layer.
type File struct {
	Path string
	Mode int64 // permission bits; a directory when Path ends in /
	Data []byte
	Link string // target: makes it a symlink
	UID  int
	GID  int
}

// Image is an image with one layer.
type Image struct {
	Name   string
	Files  []File
	Config v1.ImageConfig
}

// All builds every image. The links of the hostile one lead to outside, an
// absolute path: a test puts files there, on the host, and sees that nobody
// touched them. The program observe (see its source) is in all but Scratch.
func All(outside, observe string) ([]Image, error) {
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("the images are made from busybox-static: %w", err)
	}
	observer, err := os.ReadFile(observe)
	if err != nil {
		return nil, fmt.Errorf("was `make tools` run? %w", err)
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	base := append(userland(bb, strings.Fields(string(applets))), File{Path: "bin/observe", Mode: 0o755, Data: observer})
	return []Image{
		{Name: Busybox, Files: base, Config: config("sh")},
		{Name: Scratch, Files: []File{{Path: "busybox", Mode: 0o755, Data: bb}}, Config: config("/busybox", "echo", "scratch")},
		{Name: Crooked, Files: append(crooked(outside), base...), Config: config("sh")},
		{Name: Hostile, Files: slices.Concat(hostile(outside), crooked(outside), base), Config: config("sh")},
	}, nil
}

func config(cmd ...string) v1.ImageConfig {
	return v1.ImageConfig{Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, Cmd: cmd}
}

func userland(bb []byte, applets []string) []File {
	files := []File{
		{Path: "bin/", Mode: 0o755}, {Path: "etc/", Mode: 0o755}, {Path: "root/", Mode: 0o700}, {Path: "usr/", Mode: 0o755},
		{Path: "usr/bin/", Mode: 0o755}, {Path: "home/", Mode: 0o755}, {Path: "home/app/", Mode: 0o755, UID: 1000, GID: 1000},
		{Path: "tmp/", Mode: 0o1777}, {Path: "proc/", Mode: 0o555}, {Path: "sys/", Mode: 0o555}, {Path: "dev/", Mode: 0o755},
		{Path: "bin/busybox", Mode: 0o755, Data: bb},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")},
		{Path: "opt/", Mode: 0o755}, {Path: "opt/directory/", Mode: 0o755},
		{Path: "opt/notexec", Mode: 0o644, Data: []byte("#!/bin/sh\necho no\n")},
		{Path: "opt/noformat", Mode: 0o755, Data: []byte("neither ELF nor script\n")},
	}
	for _, a := range applets {
		if a != "busybox" {
			files = append(files, File{Path: "bin/" + a, Link: "busybox"})
		}
	}
	return files
}

// hostile and crooked have each path that a runtime writes to, or reads, as a
// symlink: to an absolute path, or by climbing. They come before the userland's
// own entries of those names, which layer leaves out.
func hostile(outside string) []File {
	return []File{
		{Path: "dev", Link: outside + "/dev"},
		{Path: "proc", Link: climb + outside + "/proc"},
		{Path: "sys", Link: outside + "/sys"},
	}
}

// crooked has what its links lead to within the image as well, where they must
// be resolved.
func crooked(outside string) []File {
	var inside []File
	for i, c := range outside {
		if c == '/' && i > 0 {
			inside = append(inside, File{Path: outside[1:i] + "/", Mode: 0o1777})
		}
	}
	for _, d := range []string{"/", "/run/", "/data/"} {
		inside = append(inside, File{Path: outside[1:] + d, Mode: 0o755})
	}
	for _, f := range []string{"/passwd", "/group", "/hostname", "/file"} {
		inside = append(inside, File{Path: outside[1:] + f, Mode: 0o644, Data: []byte("inside:x:0:\n")})
	}
	return append(inside, []File{
		{Path: "run", Link: climb + outside + "/run"},
		{Path: "etc/", Mode: 0o755},
		{Path: "etc/passwd", Link: outside + "/passwd"},
		{Path: "etc/group", Link: climb + outside + "/group"},
		{Path: "etc/hostname", Link: outside + "/hostname"},
		{Path: "data", Link: outside + "/data"},
		{Path: "file", Link: climb + outside + "/file"},
	}...)
}

const climb = "../../../../../../../../../../.."

// Archive is the image as an OCI layout in a tar stream.
func (i Image) Archive() ([]byte, error) {
	layer, err := i.layer()
	if err != nil {
		return nil, err
	}
	conf, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   i.Config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    descriptor(v1.MediaTypeImageConfig, conf),
		Layers:    []v1.Descriptor{descriptor(v1.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, err
	}
	entry := descriptor(v1.MediaTypeImageManifest, manifest)
	entry.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{entry}})
	if err != nil {
		return nil, err
	}
	files := []File{
		{Path: v1.ImageLayoutFile, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: v1.ImageIndexFile, Data: index},
	}
	for _, blob := range [][]byte{layer, conf, manifest} {
		files = append(files, File{Path: "blobs/sha256/" + digest.FromBytes(blob).Encoded(), Data: blob})
	}
	return archive(files)
}

// layer leaves out what an earlier entry of the image already is, or lies
// below an earlier symlink.
func (i Image) layer() ([]byte, error) {
	links := map[string]bool{}
	var files []File
	for _, f := range i.Files {
		path := strings.TrimSuffix(f.Path, "/")
		if links[path] || links[strings.SplitN(path, "/", 2)[0]] {
			continue
		}
		if f.Link != "" {
			links[path] = true
		}
		files = append(files, f)
	}
	return archive(files)
}

func archive(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case strings.HasSuffix(f.Path, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func descriptor(mediaType string, data []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
