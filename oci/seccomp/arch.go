package seccomp

import (
	"runtime"
	"slices"
	"sort"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run mksyscalls.go

// Columns of the table syscalls.
const (
	colAMD64 = iota
	colI386
	colX32
	colARM64
	colARM
	columns
)

type syscallNumbers struct {
	name string
	nr   [columns]int32
}

func lookup(name string) (*syscallNumbers, bool) {
	i := sort.Search(len(syscalls), func(i int) bool { return syscalls[i].name >= name })
	if i == len(syscalls) || syscalls[i].name != name {
		return nil, false
	}
	return &syscalls[i], true
}

// x32Bit marks the calls of the x32 ABI, which shares AUDIT_ARCH_X86_64.
const x32Bit = 0x40000000

// armPrivate is where the private calls of 32-bit ARM begin.
const armPrivate = 0xf0000

// abi is one way in which programs call the kernel.
type abi struct {
	name   specs.Arch
	audit  uint32 // seccomp_data.arch
	column int
	bit    uint32 // set in all call numbers
	wide   bool   // arguments have 64 bits; else only the low word counts
	mux    bool   // has socketcall(2) and ipc(2)
}

// families lists the ABIs that a kernel can meet, the native one first.
var families = [...]struct {
	goarch string
	abis   []abi
}{
	{"amd64", []abi{
		{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, column: colAMD64, wide: true},
		{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, column: colI386, mux: true},
		{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, column: colX32, bit: x32Bit},
	}},
	{"arm64", []abi{
		{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, column: colARM64, wide: true},
		{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, column: colARM},
	}},
}

var knownArches = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
	specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
	specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64,
	specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// selectABIs returns the ABIs that the filter decides about: the native one,
// and those of the list that this kernel can run. Others on the list never
// reach it, so there is nothing to generate for them.
func selectABIs(goarch string, list []specs.Arch) ([]abi, error) {
	if goarch == "" {
		goarch = runtime.GOARCH
	}
	for i, a := range list {
		if !slices.Contains(knownArches, a) {
			return nil, notOneOf(at("architectures[%d]", i), a, knownArches)
		}
	}
	for _, f := range families {
		if f.goarch != goarch {
			continue
		}
		var abis []abi
		for i, a := range f.abis {
			if i == 0 || slices.Contains(list, a.name) {
				abis = append(abis, a)
			}
		}
		return abis, nil
	}
	return nil, &Error{Reason: "no system call tables for " + goarch, kind: errdefs.ErrNotImplemented}
}

// number returns the number of a call in an ABI, without multiplexing.
func (a *abi) number(e *syscallNumbers) (uint32, bool) {
	nr := e.nr[a.column]
	if nr < 0 {
		return 0, false
	}
	return uint32(nr) | a.bit, true
}

// muxed, sorted by name, are the calls that 32-bit x86 programs also make through
// socketcall(2) or ipc(2), with the number that selects them in argument 0
// (linux/net.h, linux/ipc.h).
var muxed = [...]struct {
	name     string
	through  string
	selector uint64
}{
	{"accept", "socketcall", 5},
	{"accept4", "socketcall", 18},
	{"bind", "socketcall", 2},
	{"connect", "socketcall", 3},
	{"getpeername", "socketcall", 7},
	{"getsockname", "socketcall", 6},
	{"getsockopt", "socketcall", 15},
	{"listen", "socketcall", 4},
	{"msgctl", "ipc", 14},
	{"msgget", "ipc", 13},
	{"msgrcv", "ipc", 12},
	{"msgsnd", "ipc", 11},
	{"recv", "socketcall", 10},
	{"recvfrom", "socketcall", 12},
	{"recvmmsg", "socketcall", 19},
	{"recvmsg", "socketcall", 17},
	{"semctl", "ipc", 3},
	{"semget", "ipc", 2},
	{"semop", "ipc", 1},
	{"semtimedop", "ipc", 4},
	{"send", "socketcall", 9},
	{"sendmmsg", "socketcall", 20},
	{"sendmsg", "socketcall", 16},
	{"sendto", "socketcall", 11},
	{"setsockopt", "socketcall", 14},
	{"shmat", "ipc", 21},
	{"shmctl", "ipc", 24},
	{"shmdt", "ipc", 22},
	{"shmget", "ipc", 23},
	{"shutdown", "socketcall", 13},
	{"socket", "socketcall", 1},
	{"socketpair", "socketcall", 8},
}

// multiplexer returns the call through which name is made as well, and the
// value of its argument 0.
func (a *abi) multiplexer(name string) (through string, selector uint64, ok bool) {
	if !a.mux {
		return "", 0, false
	}
	i := sort.Search(len(muxed), func(i int) bool { return muxed[i].name >= name })
	if i == len(muxed) || muxed[i].name != name {
		return "", 0, false
	}
	return muxed[i].through, muxed[i].selector, true
}
