package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // 8 bytes each
)

// segment is a range of system call numbers, up to the next segment, with one
// decision.
type segment struct {
	start uint32
	decision
}

// generate makes the program: a jump by architecture, in each a balanced tree
// over ranges of system call numbers, and the tests of arguments behind it.
func generate(p *profile, abis []abi) (*code, error) {
	c := &code{}
	type section struct {
		audit uint32
		label label
	}
	var sections []section
	known := p.resolveNames()
	// Written from the end: the native architecture comes first.
	for i := len(abis) - 1; i >= 0; i-- {
		if abis[i].bit != 0 {
			continue // part of the native section
		}
		segments, err := p.segments(&abis[i], abis, known)
		if err != nil {
			return nil, err
		}
		sections = append(sections, section{abis[i].audit, c.section(segments)})
	}
	next := c.ret(actKillThread)
	for _, s := range sections {
		next = c.jump(unix.BPF_JEQ, s.audit, s.label, next)
	}
	c.load(offArch)
	if len(c.reversed) > unix.BPF_MAXINSNS {
		return nil, invalid("syscalls", nil, at("need a filter of %d instructions, the kernel takes %d",
			len(c.reversed), unix.BPF_MAXINSNS))
	}
	return c, nil
}

// segments lists the decisions about all numbers that come with the audit
// architecture of a: those of a itself, and of x32 beside x86-64.
func (p *profile) segments(a *abi, abis []abi, known [][]*syscallNumbers) ([]segment, error) {
	t := p.tableFor(a, known)
	segments, err := p.overlay(p.blanks(&t), &t)
	if err != nil || a.name != specs.ArchX86_64 {
		return segments, err
	}
	for i := range abis {
		if abis[i].bit == x32Bit {
			x32 := p.tableFor(&abis[i], known)
			blanks := []segment{{start: x32Bit, decision: decision{action: p.def}}}
			if p.unknown(&x32) != p.def {
				blanks = append(blanks, segment{x32.last + 1, decision{action: p.unknown(&x32)}})
			}
			tail, err := p.overlay(blanks, &x32)
			return append(segments, tail...), err
		}
	}
	// Calls with the bit of x32 are another architecture; -1 is what a
	// tracer sets to skip a call, and must not kill.
	return append(segments, segment{x32Bit, decision{action: actKillThread}},
		segment{1<<32 - 1, decision{action: p.def}}), nil
}

// unknown is what happens with calls that are newer than the profile: with
// EPERM, a program would not fall back to an older call (as runc does it).
func (p *profile) unknown(t *table) action {
	if t.last == 0 || p.def.permissive() {
		return p.def
	}
	return actENOSYS
}

// blanks are the decisions about calls that no rule mentions.
func (p *profile) blanks(t *table) []segment {
	s := []segment{{decision: decision{action: p.def}}}
	if p.unknown(t) != p.def {
		s = append(s, segment{t.last + 1, decision{action: p.unknown(t)}})
	}
	return s
}

// overlay puts the rules of a table into segments.
func (p *profile) overlay(blanks []segment, t *table) ([]segment, error) {
	entries := t.entries
	out := make([]segment, 0, len(blanks)+2*len(entries))
	for i, b := range blanks {
		out = append(out, b)
		for len(entries) > 0 && (i+1 == len(blanks) || entries[0].nr < blanks[i+1].start) {
			n := 1
			for n < len(entries) && entries[n].nr == entries[0].nr {
				n++
			}
			nr := entries[0].nr
			d, err := decide(entries[:n], t.abi.wide, p.def)
			if err != nil {
				return nil, err
			}
			if out[len(out)-1].start == nr {
				out = out[:len(out)-1]
			}
			out = append(out, segment{nr, d})
			if i+1 == len(blanks) || nr+1 < blanks[i+1].start {
				out = append(out, segment{nr + 1, b.decision})
			}
			entries = entries[n:]
		}
	}
	return out, nil
}

// target is a segment whose decision has been written.
type target struct {
	start uint32
	label label
}

// section writes the code for one architecture.
func (c *code) section(segments []segment) label {
	targets := make([]target, 0, len(segments))
	for _, s := range segments {
		l := c.level(s.nodes, c.ret(s.action))
		if n := len(targets); n == 0 || targets[n-1].label != l {
			targets = append(targets, target{s.start, l})
		}
	}
	if len(targets) == 1 {
		return targets[0].label // whatever the number
	}
	c.tree(targets)
	return c.load(offNumber)
}

// tree writes a binary search for the number.
func (c *code) tree(targets []target) label {
	if len(targets) == 1 {
		return targets[0].label
	}
	half := len(targets) / 2
	upper := c.tree(targets[half:])
	lower := c.tree(targets[:half])
	return c.jump(unix.BPF_JGE, targets[half].start, upper, lower)
}

// level writes the nodes of a level; next is where it goes on if none of them
// decides.
func (c *code) level(nodes []*node, next label) label {
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		var met label
		if n.leaf {
			met = c.ret(n.action)
		} else {
			met = c.level(n.children, next)
		}
		loaded := i > 0 && nodes[i-1].keeps(n.test)
		next = c.test(&n.test, met, next, loaded)
	}
	return next
}

// keeps tells whether the word for t is in the accumulator whenever the
// node does not decide.
func (n *node) keeps(t test) bool {
	return n.leaf && n.test.op != opMaskedEQ && n.test.word != both &&
		n.test.word == t.word && n.test.arg == t.arg
}

// test writes one test; loaded if its word is in the accumulator already.
func (c *code) test(t *test, met, unmet label, loaded bool) label {
	if t.op == opMaskedEQ && t.mask == 0 {
		return met
	}
	if t.word == both {
		return c.testBoth(t, met, unmet)
	}
	l := c.compare(t.op, uint32(t.value), met, unmet)
	if t.op == opMaskedEQ {
		l = c.and(uint32(t.mask))
	}
	if !loaded {
		l = c.load(t.offset(t.word))
	}
	return l
}

// testBoth writes a comparison of 64 bits.
func (c *code) testBoth(t *test, met, unmet label) label {
	upper := uint32(t.value >> 32)
	c.compare(t.op, uint32(t.value), met, unmet)
	lower := c.load(t.offset(low))
	switch t.op {
	case opGT, opGE:
		equal := c.jump(unix.BPF_JEQ, upper, lower, unmet)
		c.jump(unix.BPF_JGT, upper, met, equal)
	case opLT, opLE:
		equal := c.jump(unix.BPF_JEQ, upper, lower, met)
		c.jump(unix.BPF_JGT, upper, unmet, equal)
	default: // opNE
		c.jump(unix.BPF_JEQ, upper, lower, met)
	}
	return c.load(t.offset(high))
}

// compare writes the comparison of the accumulator with a value.
func (c *code) compare(op operator, value uint32, met, unmet label) label {
	switch op {
	case opNE:
		return c.jump(unix.BPF_JEQ, value, unmet, met)
	case opLT:
		return c.jump(unix.BPF_JGE, value, unmet, met)
	case opLE:
		return c.jump(unix.BPF_JGT, value, unmet, met)
	case opGT:
		return c.jump(unix.BPF_JGT, value, met, unmet)
	case opGE:
		return c.jump(unix.BPF_JGE, value, met, unmet)
	}
	return c.jump(unix.BPF_JEQ, value, met, unmet)
}

// offset of a word in struct seccomp_data, little-endian as all supported
// architectures are.
func (t *test) offset(w word) uint32 {
	off := uint32(offArgs + 8*uint32(t.arg))
	if w == high {
		off += 4
	}
	return off
}
