package seccomp

import (
	"slices"
)

// word is the part of an argument that a test looks at.
type word uint8

const (
	low word = iota
	high
	both // high first, and low if that does not decide
)

// test is a condition in terms of the 32-bit words that the filter can load.
type test struct {
	arg   uint8
	word  word
	op    operator
	mask  uint64 // of opMaskedEQ
	value uint64
}

// tests expands the conditions of a rule. What is always true is left out.
// In an ABI of 32 bits, only the low words of argument and value count.
func (r *rule) tests(wide bool) []test {
	const lower = 1<<32 - 1
	var tests []test
	for _, c := range r.conds {
		t := test{arg: c.arg, op: c.op, mask: c.mask, value: c.value}
		if !wide {
			t.mask &= lower
			t.value &= lower
		}
		if t.op == opMaskedEQ && t.mask == 0 {
			continue
		}
		if !wide {
			tests = append(tests, t)
			continue
		}
		switch t.op {
		case opEQ, opMaskedEQ:
			h, l := t, t
			h.word, h.mask, h.value = high, t.mask>>32, t.value>>32
			l.word, l.mask, l.value = low, t.mask&lower, t.value&lower
			tests = append(tests, h, l)
		default:
			t.word = both
			tests = append(tests, t)
		}
	}
	return tests
}

// node is a test in the decision tree of one system call.
type node struct {
	test test
	// leaf: when the test is met, action is taken; else the children are
	// tried in their order, and then what follows this node.
	leaf     bool
	action   action
	block    int // where the action comes from
	children []*node
}

// priority orders operators on one argument: the most particular first.
func (o operator) priority() int {
	switch o {
	case opLT, opLE:
		return 2
	case opGT, opGE:
		return 1
	}
	return 3
}

// after tells whether t is tried after n. It is the order of libseccomp: the
// higher argument first, then by operator, then the value that the fewest
// arguments meet; otherwise as in the profile.
func (t *test) after(n *test) bool {
	if t.arg != n.arg {
		return t.arg < n.arg
	}
	if (t.word == low) != (n.word == low) {
		return t.word == low
	}
	if a, b := t.op.priority(), n.op.priority(); a != b {
		return a < b
	}
	a, b := t.value, n.value
	if t.word != n.word { // of both, the high word is tried first
		a, b = t.first(), n.first()
	}
	if t.op.priority() == opLT.priority() {
		return a > b
	}
	return a < b
}

// first is the value of the word that is tried first.
func (t *test) first() uint64 {
	if t.word == both {
		return t.value >> 32
	}
	return t.value
}

// insert adds a rule, given as at least one test, to the nodes of a level. A
// rule with fewer tests covers those that begin with the same ones. The
// second result is the index of the block that wants something else under
// the same tests, or -1.
func insert(level []*node, tests []test, r *rule) ([]*node, int) {
	for i, n := range level {
		if n.test != tests[0] {
			if n.test.after(&tests[0]) {
				return slices.Insert(level, i, chain(tests, r)), -1
			}
			continue
		}
		switch {
		case len(tests) == 1 && n.leaf && n.action != r.action:
			return level, n.block
		case n.leaf:
			// r asks for the same, or is covered.
		case len(tests) == 1:
			level[i] = chain(tests, r)
		default:
			var conflict int
			n.children, conflict = insert(n.children, tests[1:], r)
			return level, conflict
		}
		return level, -1
	}
	return append(level, chain(tests, r)), -1
}

// chain makes one node of each test, one below the other.
func chain(tests []test, r *rule) *node {
	n := &node{test: tests[0]}
	if len(tests) == 1 {
		n.leaf, n.action, n.block = true, r.action, r.block
	} else {
		n.children = []*node{chain(tests[1:], r)}
	}
	return n
}

// decision is what a filter does with a system call: take the action of the
// first node whose tests are met, else the other.
type decision struct {
	nodes  []*node
	action action
}

// decide combines the rules about one system call. The first unconditional
// one settles it, wherever it stands.
func decide(entries []entry, wide bool, def action) (decision, error) {
	d := decision{action: def}
	for _, e := range entries {
		if len(e.rule.tests(wide)) == 0 {
			return decision{action: e.rule.action}, nil
		}
	}
	for _, e := range entries {
		var conflict int
		d.nodes, conflict = insert(d.nodes, e.rule.tests(wide), e.rule)
		if conflict >= 0 {
			return d, invalid(at("syscalls[%d].action", e.rule.block), nil,
				at("contradicts syscalls[%d]: another action under the same conditions", conflict))
		}
	}
	return d, nil
}
