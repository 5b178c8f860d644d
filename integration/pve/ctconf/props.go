package ctconf

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// check normalises a value, or says what is wrong with it in the words of
// PVE::JSONSchema.
type check func(value string) (string, error)

// properties of a container; families such as net0 stand without number.
var properties = map[string]check{
	"arch":         enum("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"),
	"cmode":        enum("shell", "console", "tty"),
	"console":      boolean,
	"cores":        integer(1, 8192),
	"cpulimit":     number(0, 8192),
	"cpuunits":     integer(0, 500000),
	"debug":        boolean,
	"description":  length(8192),
	"dev":          device,
	"entrypoint":   pattern(`^[^\x00-\x08\x0a-\x1f\x7f]+$`),
	"env":          anything,
	"features":     propertyString("", "mount", "nesting", "keyctl", "fuse", "mknod", "force_rw_sys"),
	"hookscript":   anything,
	"hostname":     dnsName,
	"lock":         enum("backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback", "snapshot", "snapshot-delete"),
	"memory":       integer(16, 0),
	"mp":           propertyString("volume", append(mountKeys, "mp", "backup", "keepattrs")...),
	"nameserver":   anything,
	"net":          net,
	"onboot":       boolean,
	"ostype":       enum("debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine", "gentoo", "nixos", "unmanaged"),
	"parent":       anything,
	"protection":   boolean,
	"rootfs":       propertyString("volume", mountKeys...),
	"searchdomain": anything,
	"startup":      anything,
	"swap":         integer(0, 0),
	"tags":         tags,
	"template":     boolean,
	"timezone":     anything,
	"tty":          integer(0, 6),
	"unprivileged": boolean,
	"unused":       propertyString("volume"),
}

var mountKeys = []string{"size", "acl", "mountoptions", "idmap", "ro", "quota", "replicate", "shared"}

// families have a number: their highest.
var families = map[string]int{"net": 31, "mp": 255, "dev": 255, "unused": 255}

// since are properties that older versions do not know.
var since = map[string]Version{"entrypoint": PVE91, "env": PVE91, "dev": PVE8}

var numbered = regexp.MustCompile(`^([a-z_]+?)(\d+)$`)

// Property finds the name of a property's family: "net" for "net0".
func Property(key string, version Version) (string, bool) {
	name := key
	if m := numbered.FindStringSubmatch(key); m != nil {
		n, err := strconv.Atoi(m[2])
		most, ok := families[m[1]]
		if err != nil || !ok || n > most {
			return "", false
		}
		name = m[1]
	} else if _, family := families[key]; family {
		return "", false
	}
	_, ok := properties[name]
	return name, ok && version >= since[name]
}

// Check verifies a property's value and returns it as it is stored.
func Check(key, value string, version Version) (string, error) {
	name, ok := Property(key, version)
	if !ok {
		return "", fmt.Errorf("unknown setting '%s'", key)
	}
	return properties[name](value)
}

func anything(v string) (string, error) { return v, nil }

func boolean(v string) (string, error) {
	switch strings.ToLower(v) {
	case "1", "on", "yes", "true":
		return "1", nil
	case "0", "off", "no", "false":
		return "0", nil
	}
	return "", fmt.Errorf("type check ('boolean') failed - got '%s'", v)
}

func integer(low, high int) check {
	return func(v string) (string, error) {
		n, err := strconv.Atoi(v)
		switch {
		case err != nil:
			return "", fmt.Errorf("type check ('integer') failed - got '%s'", v)
		case n < low:
			return "", fmt.Errorf("value must have a minimum value of %d", low)
		case high > 0 && n > high:
			return "", fmt.Errorf("value must have a maximum value of %d", high)
		}
		return v, nil
	}
}

func number(low, high float64) check {
	return func(v string) (string, error) {
		n, err := strconv.ParseFloat(v, 64)
		switch {
		case err != nil || strings.ContainsAny(v, "nNxXpP_"):
			return "", fmt.Errorf("type check ('number') failed - got '%s'", v)
		case n < low:
			return "", fmt.Errorf("value must have a minimum value of %g", low)
		case n > high:
			return "", fmt.Errorf("value must have a maximum value of %g", high)
		}
		return v, nil
	}
}

func enum(values ...string) check {
	return func(v string) (string, error) {
		if !slices.Contains(values, v) {
			return "", fmt.Errorf("value '%s' does not have a value in the enumeration '%s'", v, strings.Join(values, ", "))
		}
		return v, nil
	}
}

func pattern(expression string) check {
	re := regexp.MustCompile(expression)
	return func(v string) (string, error) {
		if !re.MatchString(v) {
			return "", errors.New("value does not match the regex pattern")
		}
		return v, nil
	}
}

func length(most int) check {
	return func(v string) (string, error) {
		if len(v) > most {
			return "", fmt.Errorf("value may only be %d characters long", most)
		}
		return v, nil
	}
}

// badFormat is what a format's check answers, which ends in a line feed, unlike
// other messages of Proxmox.
func badFormat(format string, args ...any) error {
	return message("invalid format - " + fmt.Sprintf(format, args...) + "\n")
}

type message string

func (m message) Error() string { return string(m) }

var dnsLabels = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?)*$`)

func dnsName(v string) (string, error) {
	if len(v) > 255 || !dnsLabels.MatchString(v) {
		return "", badFormat("value does not look like a valid DNS name")
	}
	return v, nil
}

var (
	separators = regexp.MustCompile(`[\s,;]+`)
	tag        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*$`)
)

// SplitList splits as PVE::Tools::split_list.
func SplitList(v string) []string {
	return slices.DeleteFunc(separators.Split(v, -1), func(s string) bool { return s == "" })
}

func tags(v string) (string, error) {
	all := SplitList(v)
	for i, t := range all {
		if !tag.MatchString(t) {
			return "", badFormat("invalid characters in tag")
		}
		all[i] = strings.ToLower(t)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ";"), nil
}

// Pairs are the keys and values of a property string.
type Pairs map[string]string

// ParsePairs reads a property string whose first value may go without its key.
func ParsePairs(v, defaultKey string) (Pairs, error) {
	p := Pairs{}
	for i, part := range strings.Split(v, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || defaultKey != "" && i == 0 && strings.HasPrefix(part, "/") {
			if defaultKey == "" || i > 0 {
				return nil, badFormat("value without key, but schema does not define a default key")
			}
			key, value = defaultKey, part
		}
		if _, twice := p[key]; twice {
			return nil, badFormat("duplicate key in comma-separated list property: %s", key)
		}
		p[key] = value
	}
	return p, nil
}

func propertyString(defaultKey string, keys ...string) check {
	return func(v string) (string, error) {
		p, err := ParsePairs(v, defaultKey)
		if err != nil {
			return "", err
		}
		for k := range p {
			if k != defaultKey && !slices.Contains(keys, k) {
				return "", badFormat("format error\n%s: property is not defined in schema and the schema does not allow additional properties", k)
			}
		}
		if _, ok := p[defaultKey]; !ok && defaultKey != "" {
			return "", badFormat("format error\n%s: property is missing and it is not optional", defaultKey)
		}
		return v, nil
	}
}

var device = propertyString("path", "mode", "uid", "gid", "deny-write")

var netKeys = []string{"bridge", "firewall", "gw", "gw6", "host-managed", "hwaddr", "ip", "ip6", "link_down", "mtu", "name", "rate", "tag", "trunks", "type"}

// net normalises a network device: keys sorted, name first.
func net(v string) (string, error) {
	if _, err := propertyString("", netKeys...)(v); err != nil {
		return "", err
	}
	p, err := ParsePairs(v, "")
	if err != nil {
		return "", err
	}
	if p["name"] == "" {
		return "", badFormat("format error\nname: property is missing and it is not optional")
	}
	parts := []string{"name=" + p["name"]}
	for _, k := range netKeys {
		if value, ok := p[k]; ok && k != "name" {
			parts = append(parts, k+"="+value)
		}
	}
	return strings.Join(parts, ","), nil
}

// Boolean says whether a property is one: such an option needs no value.
func Boolean(name string) bool {
	return slices.Contains([]string{"console", "debug", "onboot", "protection", "template", "unprivileged"}, name)
}

// Names of all properties; of a family, the first.
func Names(version Version) []string {
	var names []string
	for name := range properties {
		if _, ok := families[name]; ok {
			name += "0"
		}
		if _, ok := Property(name, version); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
