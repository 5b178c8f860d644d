package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// MemoryPolicy is linux.memoryPolicy for set_mempolicy(2).
type MemoryPolicy struct {
	Mode  uint32 // with the flags
	Nodes []int
}

// nodesOf says whether a mode has nodes.
type nodesOf int

const (
	withoutNodes nodesOf = iota
	mayHaveNodes
	needsNodes
)

var memoryModes = map[specs.MemoryPolicyModeType]struct {
	number uint32
	nodes  nodesOf
}{
	specs.MpolDefault:            {unix.MPOL_DEFAULT, withoutNodes},
	specs.MpolBind:               {unix.MPOL_BIND, needsNodes},
	specs.MpolInterleave:         {unix.MPOL_INTERLEAVE, needsNodes},
	specs.MpolWeightedInterleave: {unix.MPOL_WEIGHTED_INTERLEAVE, needsNodes}, // Linux 6.9
	specs.MpolPreferred:          {unix.MPOL_PREFERRED, mayHaveNodes},
	specs.MpolPreferredMany:      {unix.MPOL_PREFERRED_MANY, needsNodes}, // Linux 5.15
	specs.MpolLocal:              {unix.MPOL_LOCAL, withoutNodes},
}

var memoryFlags = map[specs.MemoryPolicyFlagType]uint32{
	specs.MpolFNumaBalancing: unix.MPOL_F_NUMA_BALANCING,
	specs.MpolFRelativeNodes: unix.MPOL_F_RELATIVE_NODES,
	specs.MpolFStaticNodes:   unix.MPOL_F_STATIC_NODES,
}

// translateMemoryPolicy refuses what set_mempolicy(2) would, as far as that
// does not depend on the machine and its kernel.
func translateMemoryPolicy(in input, p *Plan) error {
	const path = "linux.memoryPolicy"
	m := in.linux.MemoryPolicy
	if m == nil {
		return nil
	}
	mode, ok := memoryModes[m.Mode]
	if !ok {
		return notOneOf(path+".mode", m.Mode, sortedKeys(memoryModes))
	}
	flags, err := memoryFlagsOf(path+".flags", m.Flags)
	if err != nil {
		return err
	}
	if err := checkList(path+".nodes", m.Nodes); err != nil {
		return err
	}
	nodes := parseList(m.Nodes)
	switch {
	case mode.nodes == withoutNodes && len(nodes) > 0:
		return invalid(path+".nodes", m.Nodes, "is not for %s, which has no nodes", m.Mode)
	case mode.nodes == needsNodes && len(nodes) == 0:
		return invalid(path+".nodes", nil, "is required for %s", m.Mode)
	}
	for _, n := range nodes {
		if n >= initop.MaxNodes {
			return invalid(path+".nodes", m.Nodes, "has a node that is not between 0 and %d", initop.MaxNodes-1)
		}
	}
	p.MemoryPolicy = &MemoryPolicy{Mode: mode.number | flags, Nodes: nodes}
	return nil
}

func memoryFlagsOf(path string, list []specs.MemoryPolicyFlagType) (flags uint32, err error) {
	for i, f := range list {
		bit, ok := memoryFlags[f]
		if !ok {
			return 0, notOneOf(at(path, i), f, sortedKeys(memoryFlags))
		}
		flags |= bit
	}
	const both = unix.MPOL_F_RELATIVE_NODES | unix.MPOL_F_STATIC_NODES
	if flags&both == both {
		return 0, invalid(path, nil, "has both %s and %s", specs.MpolFRelativeNodes, specs.MpolFStaticNodes)
	}
	return flags, nil
}
