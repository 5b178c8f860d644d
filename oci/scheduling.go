package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// schedPolicy is a policy of process.scheduler.
type schedPolicy struct {
	number   uint32
	nice     bool // it has a nice value
	priority bool // it has a priority of 1 to 99
	deadline bool // it has runtime, deadline and period
}

// schedPolicies by their names in sched(7). SCHED_ISO is a number that no
// kernel has: sched_setattr(2) refuses it.
var schedPolicies = map[specs.LinuxSchedulerPolicy]schedPolicy{
	specs.SchedOther:    {number: unix.SCHED_NORMAL, nice: true},
	specs.SchedFIFO:     {number: unix.SCHED_FIFO, priority: true},
	specs.SchedRR:       {number: unix.SCHED_RR, priority: true},
	specs.SchedBatch:    {number: unix.SCHED_BATCH, nice: true},
	specs.SchedISO:      {number: 4, nice: true},
	specs.SchedIdle:     {number: unix.SCHED_IDLE, nice: true},
	specs.SchedDeadline: {number: unix.SCHED_DEADLINE, deadline: true},
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork:  unix.SCHED_FLAG_RESET_ON_FORK,
	specs.SchedFlagReclaim:      unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun:    unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy:   unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// Ranges of sched(7).
const (
	minNice, maxNice = -20, 19
	minRT, maxRT     = 1, 99
)

func checkScheduler(p *specs.Process) error {
	s := p.Scheduler
	if s == nil {
		return nil
	}
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		return notOneOf("process.scheduler.policy", s.Policy, sortedKeys(schedPolicies))
	}
	for i, f := range s.Flags {
		if _, ok := schedFlags[f]; !ok {
			return notOneOf(at("process.scheduler.flags", i), f, sortedKeys(schedFlags))
		}
	}
	if err := checkPriority(s, policy); err != nil {
		return err
	}
	return checkDeadline(s, policy)
}

func checkPriority(s *specs.Scheduler, policy schedPolicy) error {
	switch {
	case s.Nice != 0 && !policy.nice:
		return invalid("process.scheduler.nice", s.Nice, "is not for %s", s.Policy)
	case s.Nice < minNice || s.Nice > maxNice:
		return invalid("process.scheduler.nice", s.Nice, "is not between %d and %d", minNice, maxNice)
	case s.Priority != 0 && !policy.priority:
		return invalid("process.scheduler.priority", s.Priority, "is not for %s", s.Policy)
	case policy.priority && (s.Priority < minRT || s.Priority > maxRT):
		return invalid("process.scheduler.priority", s.Priority, "is not between %d and %d", minRT, maxRT)
	}
	return nil
}

func checkDeadline(s *specs.Scheduler, policy schedPolicy) error {
	for _, f := range []struct {
		name  string
		value uint64
	}{{"runtime", s.Runtime}, {"deadline", s.Deadline}, {"period", s.Period}} {
		if f.value != 0 && !policy.deadline {
			return invalid("process.scheduler."+f.name, f.value, "is not for %s", s.Policy)
		}
	}
	switch {
	case !policy.deadline:
		return nil
	case s.Runtime == 0:
		return invalid("process.scheduler.runtime", nil, "is required for %s", s.Policy)
	case s.Deadline < s.Runtime:
		return invalid("process.scheduler.deadline", s.Deadline, "is less than the runtime, %d", s.Runtime)
	case s.Period != 0 && s.Period < s.Deadline:
		return invalid("process.scheduler.period", s.Period, "is less than the deadline, %d", s.Deadline)
	}
	return nil
}

// SchedAttr is process.scheduler of a process that CheckProcess found right,
// for sched_setattr(2); nil if it has none.
func SchedAttr(p *specs.Process) *unix.SchedAttr {
	s := p.Scheduler
	if s == nil {
		return nil
	}
	a := &unix.SchedAttr{
		Policy: schedPolicies[s.Policy].number, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		a.Flags |= schedFlags[f]
	}
	return a
}

// ioClasses are the classes of ioprio_set(2).
var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT:   1,
	specs.IOPRIO_CLASS_BE:   2,
	specs.IOPRIO_CLASS_IDLE: 3,
}

// maxIOPriority is the lowest priority in a class.
const maxIOPriority = 7

func checkIOPriority(p *specs.Process) error {
	prio := p.IOPriority
	if prio == nil {
		return nil
	}
	if _, ok := ioClasses[prio.Class]; !ok {
		return notOneOf("process.ioPriority.class", prio.Class, sortedKeys(ioClasses))
	}
	if prio.Priority < 0 || prio.Priority > maxIOPriority {
		return invalid("process.ioPriority.priority", prio.Priority, "is not between 0 and %d", maxIOPriority)
	}
	return nil
}

// IOPriority is process.ioPriority of a process that CheckProcess found right,
// as ioprio_set(2) wants it; false if it has none.
func IOPriority(p *specs.Process) (int, bool) {
	if p.IOPriority == nil {
		return 0, false
	}
	const classShift = 13
	return ioClasses[p.IOPriority.Class]<<classShift | p.IOPriority.Priority, true
}

func checkAffinity(p *specs.Process) error {
	a := p.ExecCPUAffinity
	if a == nil {
		return nil
	}
	if err := checkList("process.execCPUAffinity.initial", a.Initial); err != nil {
		return err
	}
	return checkList("process.execCPUAffinity.final", a.Final)
}

// AffinityOps are what an exec does before it joins the container's control
// group, and after it; nil for nothing.
func AffinityOps(p *specs.Process) (initial, final []initop.Op) {
	if p.ExecCPUAffinity == nil {
		return nil, nil
	}
	const path = "process.execCPUAffinity"
	return affinityOp(path+".initial", p.ExecCPUAffinity.Initial), affinityOp(path+".final", p.ExecCPUAffinity.Final)
}

func affinityOp(path, list string) []initop.Op {
	if list == "" {
		return nil
	}
	return []initop.Op{initop.Affinity(parseList(list)).Of(path)}
}
