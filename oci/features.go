package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is the document that says what the LXC backend honours, made from
// the tables that Translate works with. What another backend could do beyond
// it is not in it: a client may rely on every word.
func Features() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         supportedHooks(),
		MountOptions:  supportedMountOptions(),
		Linux: &features.Linux{
			Namespaces:      supportedNamespaces(),
			Capabilities:    capabilityNames,
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no},
			Seccomp:         seccompFeatures(),
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: names(sortedKeys(memoryModes)), Flags: names(sortedKeys(memoryFlags))},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"io.nexcage."},
	}
}

func supportedHooks() (names []string) {
	for _, k := range hookKinds {
		names = append(names, k.name)
	}
	return names
}

func supportedMountOptions() []string {
	return sortedKeys(mountOptions)
}

func supportedNamespaces() (names []string) {
	for _, n := range namespaceTypes {
		names = append(names, string(n.oci))
	}
	return names
}

// seccompFeatures is what package seccomp compiles. Architectures that the
// machine's kernel can not run are recognized as well, but need no code.
func seccompFeatures() *features.Seccomp {
	yes := true
	return &features.Seccomp{
		Enabled:        &yes,
		Actions:        names(seccompActions),
		Operators:      names(seccompOperators),
		Archs:          names(seccompArchs),
		KnownFlags:     names(seccompFlags),
		SupportedFlags: names(seccompFlags),
	}
}

func names[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// A test compiles each of these, and finds that nothing else of the
// runtime-spec compiles.
var (
	seccompActions = []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog,
		specs.ActNotify, specs.ActTrace, specs.ActTrap,
	}
	seccompOperators = []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan,
		specs.OpMaskedEqual, specs.OpNotEqual,
	}
	seccompFlags = []specs.LinuxSeccompFlag{
		specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagWaitKillableRecv,
	}
	seccompArchs = []specs.Arch{
		specs.ArchAARCH64, specs.ArchARM, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchMIPS, specs.ArchMIPS64,
		specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPARISC,
		specs.ArchPARISC64, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchRISCV64, specs.ArchS390,
		specs.ArchS390X, specs.ArchSH, specs.ArchSHEB, specs.ArchX32, specs.ArchX86, specs.ArchX86_64,
	}
)
