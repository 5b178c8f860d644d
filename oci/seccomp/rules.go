package seccomp

import (
	"cmp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxArgs is the number of arguments that a system call has.
const maxArgs = 6

// operator compares an argument with a value.
type operator uint8

const (
	opEQ operator = iota
	opNE
	opLT
	opLE
	opGT
	opGE
	opMaskedEQ
)

var operators = []struct {
	name specs.LinuxSeccompOperator
	op   operator
}{
	{specs.OpNotEqual, opNE},
	{specs.OpLessThan, opLT},
	{specs.OpLessEqual, opLE},
	{specs.OpEqualTo, opEQ},
	{specs.OpGreaterEqual, opGE},
	{specs.OpGreaterThan, opGT},
	{specs.OpMaskedEqual, opMaskedEQ},
}

// condition compares one argument. mask is only for opMaskedEQ.
type condition struct {
	arg   uint8
	op    operator
	mask  uint64
	value uint64
}

// rule takes its action when all conditions are met; they are sorted by
// argument, and no argument occurs twice.
type rule struct {
	block  int // index in linux.seccomp.syscalls
	action action
	conds  []condition
}

// profile is a validated linux.seccomp. Its blocks keep their order.
type profile struct {
	def    action
	blocks []block
}

type block struct {
	names []string
	rules []rule // alternatives; none if the block says what the default says
}

func parseProfile(s *specs.LinuxSeccomp) (*profile, error) {
	if s.DefaultAction == specs.ActNotify {
		return nil, invalid("defaultAction", s.DefaultAction, "can not be for all system calls: the listener could never be handed over")
	}
	def, err := parseAction("defaultAction", s.DefaultAction, "defaultErrnoRet", s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	p := &profile{def: def, blocks: make([]block, len(s.Syscalls))}
	for i := range s.Syscalls {
		if p.blocks[i], err = parseBlock(i, &s.Syscalls[i], def); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func parseBlock(index int, s *specs.LinuxSyscall, def action) (block, error) {
	path := at("syscalls[%d]", index)
	if len(s.Names) == 0 {
		return block{}, invalid(path+".names", nil, "has no entry")
	}
	if i := slices.Index(s.Names, ""); i >= 0 {
		return block{}, invalid(at("%s.names[%d]", path, i), nil, "is empty")
	}
	if i := slices.Index(s.Names, "write"); i >= 0 && s.Action == specs.ActNotify {
		return block{}, invalid(at("%s.names[%d]", path, i), "write", "can not have SCMP_ACT_NOTIFY: the listener is handed over with it")
	}
	act, err := parseAction(path+".action", s.Action, path+".errnoRet", s.ErrnoRet)
	if err != nil {
		return block{}, err
	}
	conds := make([]condition, len(s.Args))
	for i := range s.Args {
		if conds[i], err = parseCondition(at("%s.args[%d]", path, i), &s.Args[i]); err != nil {
			return block{}, err
		}
	}
	b := block{names: s.Names}
	if act != def {
		b.rules = alternatives(rule{block: index, action: act, conds: conds})
	}
	return b, nil
}

func parseCondition(path string, a *specs.LinuxSeccompArg) (condition, error) {
	if a.Index >= maxArgs {
		return condition{}, invalid(path+".index", a.Index, "is not one of the six arguments, 0 to 5")
	}
	names := make([]specs.LinuxSeccompOperator, len(operators))
	for i, o := range operators {
		if o.name != a.Op {
			names[i] = o.name
			continue
		}
		c := condition{arg: uint8(a.Index), op: o.op, value: a.Value}
		if o.op == opMaskedEQ {
			c.mask, c.value = a.Value, a.ValueTwo&a.Value
		}
		return c, nil
	}
	return condition{}, notOneOf(path+".op", a.Op, names)
}

// alternatives sorts the conditions of a rule. When an argument occurs twice,
// each condition is a rule of its own, as it always was with runc (libseccomp
// can not have two conditions on one argument).
func alternatives(r rule) []rule {
	seen := [maxArgs]bool{}
	for _, c := range r.conds {
		if seen[c.arg] {
			split := make([]rule, len(r.conds))
			for i := range r.conds {
				split[i] = rule{block: r.block, action: r.action, conds: r.conds[i : i+1 : i+1]}
			}
			return split
		}
		seen[c.arg] = true
	}
	slices.SortFunc(r.conds, func(a, b condition) int { return cmp.Compare(a.arg, b.arg) })
	return []rule{r}
}

// entry says that a rule is about a system call number.
type entry struct {
	nr   uint32
	rule *rule
}

// table is what a profile says in one ABI.
type table struct {
	abi     *abi
	entries []entry // sorted by nr, then in the order of the profile
	// last is the highest number that the profile names; 0 if none, or if
	// only call 0 is named (so it is in runc).
	last uint32
}

// tableFor finds the numbers of all calls that the profile names. A name that
// the ABI does not have, or nobody knows, is left out, as in runc.
func (p *profile) tableFor(a *abi, known [][]*syscallNumbers) table {
	n := 0
	for _, calls := range known {
		n += len(calls)
	}
	t := table{abi: a, entries: make([]entry, 0, n)}
	for i, b := range p.blocks {
		for _, call := range known[i] {
			nr, direct := a.number(call)
			through, selector, muxed := a.multiplexer(call.name)
			if direct && !muxed && nr&^a.bit < armPrivate {
				t.last = max(t.last, nr)
			}
			for r := range b.rules {
				if muxed {
					t.add(through, multiplexed(&b.rules[r], selector))
				}
				if direct {
					t.entries = append(t.entries, entry{nr, &b.rules[r]})
				}
			}
		}
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int { return cmp.Compare(a.nr, b.nr) })
	return t
}

func (t *table) add(name string, r *rule) {
	if call, ok := lookup(name); ok {
		if nr, ok := t.abi.number(call); ok {
			t.entries = append(t.entries, entry{nr, r})
		}
	}
}

// multiplexed is r for the call through socketcall(2) or ipc(2): its argument
// 0 selects the call, and takes the place of r's condition on it. The other
// conditions stay, although there the arguments are behind a pointer, or one
// further: so it is in libseccomp.
func multiplexed(r *rule, selector uint64) *rule {
	conds := []condition{{arg: 0, op: opEQ, value: selector}}
	for _, c := range r.conds {
		if c.arg != 0 {
			conds = append(conds, c)
		}
	}
	return &rule{block: r.block, action: r.action, conds: conds}
}

// resolveNames looks all names of a profile up, once for all ABIs.
func (p *profile) resolveNames() [][]*syscallNumbers {
	known := make([][]*syscallNumbers, len(p.blocks))
	for i, b := range p.blocks {
		known[i] = make([]*syscallNumbers, 0, len(b.names))
		for _, name := range b.names {
			if call, ok := lookup(name); ok {
				known[i] = append(known[i], call)
			}
		}
	}
	return known
}
