package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cageforge/containerd-shim-nexcage/integration/pve/ctconf"
	"github.com/cageforge/containerd-shim-nexcage/integration/pve/host"
)

// kind of an option's value.
type kind int

const (
	text kind = iota
	boolean
	integer
	number
	property // a property of the configuration
)

// command is one of pct's.
type command struct {
	name   string
	args   []string // names of its arguments
	rest   bool     // any number of further ones
	opts   map[string]kind
	props  bool              // takes the configuration's properties as options
	check  func(*call) error // in pct's own process
	work   func(*call) error // in a worker, if there is work for one
	exits0 bool              // even when the worker failed
}

// call is one call of a command.
type call struct {
	*command
	vmid int
	argv map[string]string
	rest []string
	opts map[string]string
}

func (c *call) on(name string) bool { return c.opts[name] == "1" }

func (c *command) usage() string {
	s := "pct " + c.name
	for _, a := range c.args {
		s += " <" + a + ">"
	}
	if c.rest {
		s += " [<extra-args>]"
	}
	return s + " [OPTIONS]"
}

// bad is a usage error.
func (c *command) bad(code int, format string, args ...any) error {
	return host.DieCode(code, "%s\n%s", fmt.Sprintf(format, args...), c.usage())
}

// parameter is a failed verification of one parameter.
func (c *command) parameter(code int, key string, err string) error {
	return host.DieCode(code, "400 Parameter verification failed.\n%s: %s\n%s", key, err, c.usage())
}

// parse takes the arguments apart as Getopt::Long with permute does.
func (c *command) parse(args []string) (*call, error) {
	p := &call{command: c, argv: map[string]string{}, opts: map[string]string{}}
	plain, err := p.options(args)
	if err != nil {
		return nil, err
	}
	if len(plain) < len(c.args) {
		return nil, c.bad(2, "400 not enough arguments")
	}
	for i, name := range c.args {
		p.argv[name] = plain[i]
	}
	if p.rest = plain[len(c.args):]; len(p.rest) > 0 && !c.rest {
		return nil, c.bad(2, "400 too many arguments")
	}
	return p, p.verify()
}

func (p *call) options(args []string) (plain []string, err error) {
	unknown := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			plain = append(plain, args[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' || len(p.args) > 0 && isNumber(a) {
			plain = append(plain, a)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
		full, k, ok := p.find(name)
		switch {
		case !ok:
			fmt.Fprintln(os.Stderr, "Unknown option:", name)
			unknown = true
			continue
		case given:
		case k == boolean:
			value = "1"
			if i+1 < len(args) && (args[i+1] == "" || args[i+1][0] != '-') {
				i++
				value = args[i]
			}
		case i+1 >= len(args):
			fmt.Fprintf(os.Stderr, "Option %s requires an argument\n", full)
			unknown = true
			continue
		default:
			i++
			value = args[i]
		}
		p.opts[full] = value
	}
	if unknown {
		return nil, p.bad(2, "400 unable to parse option")
	}
	return plain, nil
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// find finds an option by its name or an unambiguous beginning of it.
func (c *command) find(name string) (string, kind, bool) {
	if k, ok := c.kindOf(name); ok {
		return name, k, true
	}
	var found []string
	for _, o := range c.names() {
		if strings.HasPrefix(o, name) {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		return "", 0, false
	}
	k, ok := c.kindOf(found[0])
	return found[0], k, ok
}

func (c *command) kindOf(name string) (kind, bool) {
	if k, ok := c.opts[name]; ok {
		return k, true
	}
	if !c.props {
		return 0, false
	}
	if _, ok := ctconf.Property(name, host.Version()); !ok {
		return 0, false
	}
	if ctconf.Boolean(name) {
		return boolean, true
	}
	return property, true
}

func (c *command) names() []string {
	names := slices.Collect(maps.Keys(c.opts))
	if c.props {
		names = append(names, ctconf.Names(host.Version())...)
	}
	return names
}

// verify checks the values.
func (p *call) verify() error {
	for _, name := range []string{"vmid", "newid"} {
		value, ok := p.argv[name]
		if !ok {
			continue
		}
		id, err := strconv.Atoi(value)
		if err != nil {
			return p.parameter(2, name, fmt.Sprintf("type check ('integer') failed - got '%s'", value))
		}
		if id < 100 || id > 999999999 {
			return p.parameter(2, name, "invalid format - value does not look like a valid VM ID\n")
		}
		if name == "vmid" {
			p.vmid = id
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.opts)) {
		if err := p.verifyOption(name); err != nil {
			return p.parameter(2, name, err.Error())
		}
	}
	return nil
}

func (p *call) verifyOption(name string) (err error) {
	value := p.opts[name]
	k, own := p.command.opts[name]
	switch {
	case !own:
		value, err = ctconf.Check(name, value, host.Version())
	case k == boolean:
		value, err = ctconf.Check("onboot", value, host.Version())
	case k == integer && !isNumber(value):
		err = fmt.Errorf("type check ('integer') failed - got '%s'", value)
	case k == number:
		if _, bad := strconv.ParseFloat(value, 64); bad != nil {
			err = fmt.Errorf("type check ('number') failed - got '%s'", value)
		}
	}
	p.opts[name] = value
	return err
}
