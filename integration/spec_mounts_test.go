package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSpecMounts is about mounts, seen in mountinfo.
func TestSpecMounts(t *testing.T) { runRows(t, slices.Concat(mountRows, attributeRows(), tmpfsRows())) }

var mountRows = []row{
	{
		name: "mount-types", fields: []string{"mounts[].destination", "mounts[].type", "mounts[].source"},
		spec: func(x *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/new/tmpfs", Type: "tmpfs", Source: "named", Options: []string{"size=1m"}},
				specs.Mount{Destination: "/new/../bound", Type: "bind", Source: x.dir, Options: []string{"bind"}},
				specs.Mount{Destination: "/file", Type: "none", Source: "/etc/hostname", Options: []string{"bind"}})
		},
		look: func(x *shown) {
			assert.Equal(x.t, "tmpfs named", x.mountAt("/new/tmpfs").fs+" "+x.mountAt("/new/tmpfs").source)
			assert.True(x.t, strings.HasSuffix(x.dir, x.mountAt("/bound").root), "%s is not %s", x.mountAt("/bound").root, x.dir)
			assert.True(x.t, strings.HasSuffix(x.mountAt("/file").root, "/hostname"))
		},
	},
	{
		name: "mounts-in-their-order", fields: []string{"mounts[].destination"},
		spec: func(x *shown, s *specs.Spec) {
			require.NoError(x.t, os.WriteFile(filepath.Join(x.dir, "below"), nil, 0o644))
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/m", Type: "tmpfs", Source: "first"},
				specs.Mount{Destination: "/m/sub", Type: "bind", Source: x.dir, Options: []string{"bind"}},
				specs.Mount{Destination: "/m", Type: "tmpfs", Source: "last"})
		},
		look: func(x *shown) {
			assert.Equal(x.t, "last", x.mountAt("/m").source)
			assert.Empty(x.t, x.inside("ls", "/m"))
		},
	},
	{
		name: "bind-of-a-tree", fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			x.tree()
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/tree", Type: "bind", Source: x.dir, Options: []string{"rbind", "ro"}},
				specs.Mount{Destination: "/all", Type: "bind", Source: x.dir, Options: []string{"rbind", "rro"}},
				specs.Mount{Destination: "/one", Type: "bind", Source: x.dir, Options: []string{"bind"}})
		},
		look: func(x *shown) {
			assert.Contains(x.t, x.mountAt("/tree").options, "ro")
			assert.Contains(x.t, x.mountAt("/tree/sub").options, "rw")
			assert.Contains(x.t, x.mountAt("/all").options, "ro")
			assert.Contains(x.t, x.mountAt("/all/sub").options, "ro")
			_, found := x.findMount("/one/sub")
			assert.False(x.t, found, "bind takes what is mounted below")
		},
	},
	{
		name: "bind-with-options-of-its-own", fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			restricted := x.restricted()
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/rw", Type: "bind", Source: restricted, Options: []string{"bind", "rw"}},
				specs.Mount{Destination: "/ro", Type: "bind", Source: restricted, Options: []string{"bind", "ro", "nosuid"}})
		},
		look: func(x *shown) {
			assert.Equal(x.t, []string{"rw"}, x.restrictions("/rw"))
			assert.Equal(x.t, []string{"ro", "nosuid"}, x.restrictions("/ro"))
		},
	},
	{
		name: "bind-without-options", flaw: upTo("1.21", "keeps nothing of the source"), fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/plain", Type: "bind", Source: x.restricted(), Options: []string{"bind"}})
		},
		look: func(x *shown) {
			assert.Equal(x.t, []string{"ro", "nosuid", "nodev", "noexec"}, x.restrictions("/plain"))
		},
	},
	{
		name: "recursive-attributes", fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			x.tree()
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/tree", Type: "bind", Source: x.dir, Options: []string{"rbind", "rnosuid", "rnodev", "rnoexec"},
			})
		},
		look: func(x *shown) {
			for _, path := range []string{"/tree", "/tree/sub"} {
				assert.Subset(x.t, x.mountAt(path).options, []string{"nosuid", "nodev", "noexec"}, path)
			}
		},
	},
	{
		name: "recursive-times", fields: []string{"mounts[].options"}, flaw: upTo("1.21", "fails with EINVAL"),
		spec: func(x *shown, s *specs.Spec) {
			x.tree()
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tree", Type: "bind", Source: x.dir, Options: []string{"rbind", "rnoatime", "rnodiratime"}})
		},
		look: func(x *shown) {
			for _, path := range []string{"/tree", "/tree/sub"} {
				assert.Subset(x.t, x.mountAt(path).options, []string{"noatime", "nodiratime"}, path)
			}
		},
	},
	{
		name: "propagation-slave", fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			x.tree()
			require.NoError(x.t, unix.Mount("", filepath.Join(x.dir, "sub"), "", unix.MS_SHARED, ""))
			s.Linux.RootfsPropagation = "rslave" // of what is private nothing can be a slave
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/rslave", Type: "bind", Source: x.dir, Options: []string{"rbind", "rslave"}})
		},
		look: func(x *shown) { assert.Regexp(x.t, `^master:\d+$`, x.mountAt("/rslave/sub").tags) },
	},
	{
		name: "propagation", fields: []string{"mounts[].options"}, flaw: upTo("1.21", "lets linux.rootfsPropagation decide"),
		spec: func(x *shown, s *specs.Spec) {
			x.tree()
			require.NoError(x.t, unix.Mount("", filepath.Join(x.dir, "sub"), "", unix.MS_SHARED, ""))
			for _, option := range []string{"private", "slave", "shared", "unbindable"} {
				s.Mounts = append(s.Mounts, specs.Mount{
					Destination: "/" + option, Type: "bind", Source: filepath.Join(x.dir, "sub"), Options: []string{"bind", option},
				})
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/rslave", Type: "bind", Source: x.dir, Options: []string{"rbind", "rslave"}})
		},
		look: func(x *shown) {
			assert.Empty(x.t, x.mountAt("/private").tags)
			assert.Equal(x.t, "unbindable", x.mountAt("/unbindable").tags)
			assert.Regexp(x.t, `^master:\d+$`, x.mountAt("/slave").tags)
			assert.Regexp(x.t, `^shared:\d+`, x.mountAt("/shared").tags)
			assert.Regexp(x.t, `^master:\d+$`, x.mountAt("/rslave/sub").tags)
		},
	},
	{
		name: "remount", fields: []string{"mounts[].options"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/again", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/again", Options: []string{"remount", "bind", "ro", "noexec"}})
		},
		look: func(x *shown) {
			assert.Subset(x.t, x.mountAt("/again").options, []string{"ro", "noexec"})
			assert.NotContains(x.t, x.mountAt("/again").super, "ro")
		},
	},
	{
		name: "source-is-missing", fields: []string{"mounts[].source"}, refused: "mounts[7].source",
		spec: func(x *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts[:7:7], specs.Mount{Destination: "/x", Type: "bind", Source: filepath.Join(x.dir, "no"), Options: []string{"bind"}})
		},
	},
	{
		name: "type-is-unknown", fields: []string{"mounts[].type"}, refused: "mounts[7]",
		spec: func(_ *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts[:7:7], specs.Mount{Destination: "/x", Type: "nosuchfs", Source: "none"})
		},
	},
	{
		name: "option-is-unknown", fields: []string{"mounts[].options"}, refused: "nosuchoption",
		spec: func(_ *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts[:7:7], specs.Mount{Destination: "/x", Type: "tmpfs", Source: "none", Options: []string{"nosuchoption=1"}})
		},
	},
}

// tree mounts a tmpfs at sub in the row's directory.
func (x *shown) tree() {
	sub := filepath.Join(x.dir, "sub")
	require.NoError(x.t, os.Mkdir(sub, 0o755))
	require.NoError(x.t, unix.Mount("tmpfs", sub, "tmpfs", 0, "size=1m"))
	x.t.Cleanup(func() { assert.NoError(x.t, unix.Unmount(sub, unix.MNT_DETACH)) })
}

// restricted is a directory whose mount forbids as much as it can.
func (x *shown) restricted() string {
	x.tree()
	sub := filepath.Join(x.dir, "sub")
	const all = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	require.NoError(x.t, unix.Mount("", sub, "", unix.MS_BIND|unix.MS_REMOUNT|all, ""))
	return sub
}

// restrictions are the options of a mount that restricted is about.
func (x *shown) restrictions(path string) []string {
	return slices.DeleteFunc(slices.Clone(x.mountAt(path).options), func(o string) bool {
		return !slices.Contains([]string{"ro", "rw", "nosuid", "nodev", "noexec"}, o)
	})
}

// attributeRows has rows for each attribute of a mount: what mountinfo shows
// of a bind mount with it, and with its opposite after it.
func attributeRows() (rows []row) {
	for _, a := range []struct {
		option, opposite, shows string
		flaw                    flaw
	}{
		{option: "ro", opposite: "rw", shows: "ro"},
		{option: "nosuid", opposite: "suid", shows: "nosuid"},
		{option: "nodev", opposite: "dev", shows: "nodev"},
		{option: "noexec", opposite: "exec", shows: "noexec"},
		{option: "noatime", opposite: "atime", shows: "noatime"},
		{option: "nodiratime", opposite: "diratime", shows: "nodiratime"},
		{option: "relatime", opposite: "strictatime", shows: "relatime"},
		{option: "nosymfollow", opposite: "symfollow", shows: "nosymfollow", flaw: upTo("1.21", "does not know it")},
	} {
		rows = append(rows,
			withFlaw(a.flaw, bindRow("mount-"+a.option, []string{"bind", a.option}, func(t *testing.T, options []string) {
				assert.Contains(t, options, a.shows)
			})),
			withFlaw(upTo("1.21", "does not take back what an earlier option set"),
				bindRow("mount-"+a.option+"-"+a.opposite, []string{"bind", a.option, a.opposite}, func(t *testing.T, options []string) {
					assert.NotContains(t, options, a.shows)
				})))
	}
	return rows
}

func bindRow(name string, options []string, check func(t *testing.T, options []string)) row {
	return row{
		name: name, fields: []string{"mounts[].options"},
		spec: func(x *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bound", Type: "bind", Source: x.dir, Options: options})
		},
		look: func(x *shown) { check(x.t, x.mountAt("/bound").options) },
	}
}

// tmpfsRows are options that belong to the file system.
func tmpfsRows() (rows []row) {
	for _, o := range []struct{ option, super, options string }{
		{option: "size=2048k", super: "size=2048k"},
		{option: "mode=1750", super: "mode=1750"},
		{option: "nr_inodes=77", super: "nr_inodes=77"},
		{option: "sync", super: "sync"},
		{option: "dirsync", super: "dirsync"},
	} {
		rows = append(rows, row{
			name: "tmpfs-" + o.option, fields: []string{"mounts[].options"},
			spec: func(_ *shown, s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{o.option}})
			},
			look: func(x *shown) { assert.Contains(x.t, x.mountAt("/t").super, o.super) },
		})
	}
	return append(rows, row{
		name: "tmpcopyup", fields: []string{"mounts[].options"},
		spec: func(_ *shown, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/home", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
		},
		args: []string{"sh", "-c", "stat -c '%n %u:%g' /home/app; stat -f -c %T /home"}, want: "/home/app 1000:1000\ntmpfs\n",
	})
}
