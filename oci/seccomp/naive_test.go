package seccomp

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// naive decides about a call by reading the profile from top to bottom. sure
// is false when rules with different actions match: then it is a matter of
// precedence.
type naive struct {
	profile *specs.LinuxSeccomp
	goarch  string
}

func (n naive) decide(t testing.TB, a *abi, nr uint32, args [maxArgs]uint64) (want action, sure bool) {
	t.Helper()
	def := naiveAction(t, n.profile.DefaultAction, n.profile.DefaultErrnoRet)
	if n.newer(a, nr) {
		return actENOSYS, true
	}
	var matches []action
	for _, b := range n.profile.Syscalls {
		act := naiveAction(t, b.Action, b.ErrnoRet)
		if act == def {
			continue
		}
		for _, name := range b.Names {
			matched, unconditional := naiveMatch(a, name, nr, b.Args, args)
			if unconditional {
				return act, true
			}
			if matched {
				matches = append(matches, act)
			}
		}
	}
	matches = slices.Compact(matches)
	switch len(matches) {
	case 0:
		return def, true
	case 1:
		return matches[0], true
	}
	return 0, false
}

// newer tells whether the call is newer than all that the profile names.
func (n naive) newer(a *abi, nr uint32) bool {
	switch n.profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return false
	}
	known := uint32(0)
	for _, b := range n.profile.Syscalls {
		for _, name := range b.Names {
			_, _, multi := a.multiplexer(name)
			if e, ok := lookup(name); ok && e.nr[a.column] >= 0 && !multi && e.nr[a.column] < armPrivate {
				known = max(known, uint32(e.nr[a.column])|a.bit)
			}
		}
	}
	return known != 0 && nr|a.bit > known
}

func naiveMatch(a *abi, name string, nr uint32, conds []specs.LinuxSeccompArg, args [maxArgs]uint64) (matched, unconditional bool) {
	e, ok := lookup(name)
	if !ok {
		return false, false
	}
	if through, selector, ok := a.multiplexer(name); ok {
		m, _ := lookup(through)
		if nr == uint32(m.nr[a.column]) {
			// runc's separate rules for a repeated argument do
			// not occur together with multiplexing here.
			if uint32(args[0]) != uint32(selector) {
				return false, false
			}
			rest := slices.DeleteFunc(slices.Clone(conds), func(c specs.LinuxSeccompArg) bool { return c.Index == 0 })
			m, u := naiveConds(a, rest, args)
			return m || u, false
		}
	}
	if e.nr[a.column] < 0 || nr != uint32(e.nr[a.column]) {
		return false, false
	}
	return naiveConds(a, conds, args)
}

func naiveConds(a *abi, conds []specs.LinuxSeccompArg, args [maxArgs]uint64) (matched, unconditional bool) {
	repeated := false
	for i, c := range conds {
		for _, d := range conds[:i] {
			repeated = repeated || c.Index == d.Index
		}
	}
	met, always := 0, 0
	for _, c := range conds {
		arg, value, two := args[c.Index], c.Value, c.ValueTwo
		if !a.wide {
			arg, value, two = uint64(uint32(arg)), uint64(uint32(value)), uint64(uint32(two))
		}
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: arg == value, specs.OpNotEqual: arg != value,
			specs.OpLessThan: arg < value, specs.OpLessEqual: arg <= value,
			specs.OpGreaterThan: arg > value, specs.OpGreaterEqual: arg >= value,
			specs.OpMaskedEqual: arg&value == two&value,
		}[c.Op]
		if ok {
			met++
		}
		if c.Op == specs.OpMaskedEqual && value == 0 {
			always++
		}
	}
	if repeated {
		return met > 0, always > 0
	}
	return met == len(conds), always == len(conds)
}

func naiveAction(t testing.TB, a specs.LinuxSeccompAction, errnoRet *uint) action {
	errno := action(unix.EPERM)
	if errnoRet != nil {
		errno = action(*errnoRet)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return 0
	case specs.ActKillProcess:
		return 0x80000000
	case specs.ActTrap:
		return 0x00030000
	case specs.ActErrno:
		return 0x00050000 | errno
	case specs.ActTrace:
		return 0x7ff00000 | errno
	case specs.ActLog:
		return 0x7ffc0000
	case specs.ActAllow:
		return 0x7fff0000
	}
	require.FailNow(t, "unknown action", "%s", a)
	return 0
}

// abis returns the ABIs of an architecture.
func abisOf(t testing.TB, goarch string) []*abi {
	for i := range families {
		if families[i].goarch == goarch {
			var all []*abi
			for j := range families[i].abis {
				all = append(all, &families[i].abis[j])
			}
			return all
		}
	}
	require.FailNow(t, "unknown architecture", goarch)
	return nil
}

func compile(t testing.TB, s *specs.LinuxSeccomp, goarch string) program {
	t.Helper()
	b, _, err := Compile(s, goarch)
	require.NoError(t, err)
	return load(t, b)
}

func readProfile(t testing.TB, file string) *specs.LinuxSeccomp {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	s := &specs.LinuxSeccomp{}
	require.NoError(t, json.Unmarshal(b, s))
	return s
}
