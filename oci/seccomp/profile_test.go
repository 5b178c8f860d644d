package seccomp

import (
	"math/rand"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The profiles that containerd 2.4 generates for a default set of
// capabilities.
const (
	profileAMD64 = "testdata/containerd-2.4-amd64.json"
	profileARM64 = "testdata/containerd-2.4-arm64.json"
)

func TestDefaultProfileOfContainerd(t *testing.T) {
	args := [][maxArgs]uint64{
		{}, {1}, {2}, {0x28}, {0xffffffff}, {1<<64 - 1}, {0x20008}, {unix.AF_VSOCK}, {unix.AF_MCTP}, {unix.AF_ALG},
		{unix.CLONE_NEWNS}, {unix.CLONE_NEWUSER | 17}, {unix.CLONE_VM | 17}, {1 << 32},
	}
	for goarch, file := range map[string]string{"amd64": profileAMD64, "arm64": profileARM64} {
		s := readProfile(t, file)
		p, n := compile(t, s, goarch), naive{s, goarch}
		t.Logf("%s: %d instructions", goarch, len(p))
		longest := 0
		for _, a := range abisOf(t, goarch) {
			for nr := range uint32(1001) {
				for _, args := range args {
					c := call{a.audit, nr | a.bit, args}
					want, sure := n.decide(t, a, nr, args)
					require.True(t, sure, "%v", c)
					got, steps := p.run(c)
					require.Equal(t, want, got, "%v", c)
					longest = max(longest, steps)
				}
			}
		}
		t.Logf("%s: at most %d steps", goarch, longest)
	}
}

func TestDefaultProfileKnowsTheUsualCalls(t *testing.T) {
	p := compile(t, readProfile(t, profileAMD64), "amd64")
	for nr, want := range map[uint32]action{
		unix.SYS_READ: actAllow, unix.SYS_EXECVE: actAllow, unix.SYS_CHROOT: actAllow,
		unix.SYS_MOUNT: actErrno | 1, unix.SYS_KEYCTL: actErrno | 1, unix.SYS_CLONE3: actENOSYS, 1000: actENOSYS,
	} {
		assert.Equal(t, want, p.decide(amd64(nr)), "%d", nr)
	}
	assert.Equal(t, actAllow, p.decide(amd64(unix.SYS_SOCKET, unix.AF_INET)))
	assert.Equal(t, actErrno|1, p.decide(amd64(unix.SYS_SOCKET, unix.AF_VSOCK)))
	assert.Equal(t, actErrno|1, p.decide(amd64(unix.SYS_CLONE, unix.CLONE_NEWUSER)))
}

func TestAnEmptyProfileDecidesAlike(t *testing.T) {
	p := compile(t, parse(t, `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`), "amd64")
	assert.Equal(t, actAllow, p.decide(amd64(0)))
	assert.Equal(t, actAllow, p.decide(i386(1000)))
	assert.Equal(t, actKillThread, p.decide(call{audit: unix.AUDIT_ARCH_ARM}))
}

// values are arguments and operands at which comparisons turn over.
var values = []uint64{
	0, 1, 2, 3, 4, 7, 8, 0xfffffffe, 0xffffffff, 1 << 32, 1<<32 | 1, 1<<32 | 2, 2 << 32,
	3<<32 | 1, 3<<32 | 2, 1 << 63, 1<<64 - 1,
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.Intn(len(from))] }

// randomProfile makes a profile of rules that have one action, so that their
// precedence does not matter, about few calls and few values, so that they
// overlap.
func randomProfile(r *rand.Rand, names []string, ops []specs.LinuxSeccompOperator) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{
		DefaultAction: pick(r, specs.ActAllow, specs.ActErrno, specs.ActKillProcess),
		Architectures: pick(r, nil, []specs.Arch{specs.ArchX86, specs.ArchX32}),
	}
	action := specs.ActAllow
	if s.DefaultAction == specs.ActAllow {
		action = specs.ActTrap
	}
	for range r.Intn(9) {
		b := specs.LinuxSyscall{Names: []string{pick(r, names...)}, Action: action}
		for range r.Intn(4) {
			b.Args = append(b.Args, specs.LinuxSeccompArg{
				Index: uint(r.Intn(3)), Op: pick(r, ops...), Value: pick(r, values...), ValueTwo: pick(r, values...),
			})
		}
		s.Syscalls = append(s.Syscalls, b)
	}
	return s
}

func allOperators() []specs.LinuxSeccompOperator {
	ops := make([]specs.LinuxSeccompOperator, len(operators))
	for i := range operators {
		ops[i] = operators[i].name
	}
	return ops
}

func checkAgainstNaive(t *testing.T, r *rand.Rand) {
	names := []string{"read", "personality", "mmap2", "clone3", "nosuchcall", "execve"}
	s := randomProfile(r, names, allOperators())
	p, n := compile(t, s, "amd64"), naive{s, "amd64"}
	for _, a := range abisOf(t, "amd64") {
		if a.name != specs.ArchX86_64 && s.Architectures == nil {
			continue
		}
		for _, name := range names {
			e, ok := lookup(name)
			if !ok || e.nr[a.column] < 0 {
				continue
			}
			for range 40 {
				nr := uint32(e.nr[a.column]) + uint32(r.Intn(2))
				args := [maxArgs]uint64{pick(r, values...), pick(r, values...), pick(r, values...), r.Uint64()}
				want, sure := n.decide(t, a, nr, args)
				require.True(t, sure)
				require.Equal(t, want, p.decide(call{a.audit, nr | a.bit, args}), "%s %s %#x of %+v", a.name, name, args, s)
			}
		}
	}
}

func TestRandomProfilesDecideAsTheyRead(t *testing.T) {
	for seed := range int64(500) {
		checkAgainstNaive(t, rand.New(rand.NewSource(seed)))
	}
}

func FuzzProfilesDecideAsTheyRead(f *testing.F) {
	f.Add(int64(1))
	f.Fuzz(func(t *testing.T, seed int64) { checkAgainstNaive(t, rand.New(rand.NewSource(seed))) })
}

func BenchmarkCompileDefaultProfile(b *testing.B) {
	s := readProfile(b, profileAMD64)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Compile(s, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
