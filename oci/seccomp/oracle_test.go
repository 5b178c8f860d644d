package seccomp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "record the decisions of libseccomp again (needs gcc and libseccomp-dev)")

// oracle builds filters with the real libseccomp, in a program of its own.
type oracle string

var errExists = errors.New("libseccomp: another action under the same conditions")

func newOracle(t testing.TB) oracle {
	require.FileExists(t, "/usr/include/seccomp.h", "libseccomp-dev")
	bin := filepath.Join(t.TempDir(), "oracle")
	out, err := exec.Command("gcc", "-o", bin, "testdata/oracle.c", "-lseccomp").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return oracle(bin)
}

// scmpOps are the values of enum scmp_compare.
var scmpOps = map[operator]int{opNE: 1, opLT: 2, opLE: 3, opEQ: 4, opGE: 5, opGT: 6, opMaskedEQ: 7}

// compile does what runc does: rules in their order, those that say what the
// default says left out, no stub for ENOSYS.
func (o oracle) compile(t testing.TB, s *specs.LinuxSeccomp) (program, error) {
	t.Helper()
	p, err := parseProfile(s)
	require.NoError(t, err)
	var in bytes.Buffer
	fmt.Fprintf(&in, "default %d\n", p.def)
	for _, a := range s.Architectures {
		fmt.Fprintf(&in, "arch %s\n", strings.ToLower(strings.TrimPrefix(string(a), "SCMP_ARCH_")))
	}
	for _, b := range p.blocks {
		for _, name := range b.names {
			for _, r := range b.rules {
				fmt.Fprintf(&in, "rule %d %s %d", r.action, name, len(r.conds))
				for _, c := range r.conds {
					if c.op == opMaskedEQ {
						fmt.Fprintf(&in, " %d %d %d %d", c.arg, scmpOps[c.op], c.mask, c.value)
					} else {
						fmt.Fprintf(&in, " %d %d %d 0", c.arg, scmpOps[c.op], c.value)
					}
				}
				in.WriteByte('\n')
			}
		}
	}
	// On some contradictory sets of rules libseccomp never ends.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(o))
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return nil, errExists
	}
	require.NoError(t, err, "%s", stderr.Bytes())
	return load(t, out), nil
}

// recorded is testdata/libseccomp.json: for each profile what libseccomp
// 2.5.4 decides, as "action*times", about the calls of sweep.
const recorded = "testdata/libseccomp.json"

// recordedProfiles are compared with libseccomp call by call.
func recordedProfiles(t testing.TB) map[string]*specs.LinuxSeccomp {
	const arches = `"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"]`
	rule := func(name, action, args string) string {
		return fmt.Sprintf(`{"names":[%q],"action":"SCMP_ACT_%s","args":[%s]}`, name, action, args)
	}
	cond := func(index int, op string, value, two uint64) string {
		return fmt.Sprintf(`{"index":%d,"op":"SCMP_CMP_%s","value":%d,"valueTwo":%d}`, index, op, value, two)
	}
	profiles := map[string]*specs.LinuxSeccomp{"containerd": readProfile(t, profileAMD64)}
	for name, rules := range map[string][]string{
		"multiplexed": {
			rule("socket", "ALLOW", cond(0, "EQ", 2, 0)), rule("sendmmsg", "ALLOW", ""), rule("send", "ALLOW", ""),
			rule("accept4", "ALLOW", cond(3, "EQ", 1, 0)), rule("semop", "ALLOW", ""), rule("shmctl", "ALLOW", ""),
			rule("msgsnd", "ALLOW", cond(0, "EQ", 3, 0)), rule("socketpair", "TRAP", ""),
		},
		"first unconditional": {
			rule("read", "TRAP", cond(0, "EQ", 1, 0)), rule("read", "ALLOW", ""), rule("read", "LOG", ""),
			rule("write", "ALLOW", ""), rule("write", "TRAP", cond(0, "EQ", 1, 0)),
		},
		"conflicting values": {
			rule("read", "TRAP", cond(0, "EQ", 1, 0)), rule("read", "ALLOW", cond(1, "EQ", 1, 0)),
			rule("read", "LOG", cond(0, "EQ", 1, 0)+","+cond(2, "EQ", 1, 0)),
			rule("dup", "LOG", cond(0, "EQ", 1, 0)+","+cond(2, "EQ", 1, 0)), rule("dup", "LOG", cond(0, "EQ", 1, 0)),
			rule("personality", "ALLOW", cond(0, "MASKED_EQ", 1, 1)), rule("personality", "TRAP", cond(0, "EQ", 3, 0)),
			rule("personality", "LOG", cond(0, "MASKED_EQ", 3, 2)),
		},
		"conflicting ranges": {
			rule("read", "TRAP", cond(0, "GT", 2, 0)), rule("read", "ALLOW", cond(0, "GT", 7, 0)),
			rule("write", "TRAP", cond(0, "LT", 8, 0)), rule("write", "ALLOW", cond(0, "LT", 3, 0)),
		},
		"no conditions": {
			rule("read", "ALLOW", cond(0, "MASKED_EQ", 0, 5)), rule("dup", "ALLOW", cond(0, "MASKED_EQ", 0xf<<32, 0)),
		},
	} {
		profiles[name] = parse(t, `{"defaultAction":"SCMP_ACT_ERRNO",`+arches+`,"syscalls":[`+strings.Join(rules, ",")+`]}`)
	}
	for _, op := range operators {
		for _, v := range []uint64{1, 0xffffffff, 3<<32 | 2} {
			profiles[fmt.Sprintf("%s %#x", op.name, v)] = parse(t, `{"defaultAction":"SCMP_ACT_ERRNO",`+arches+`,"syscalls":[`+
				rule("personality", "ALLOW", cond(1, strings.TrimPrefix(string(op.name), "SCMP_CMP_"), v, 3<<32|2))+`]}`)
		}
	}
	return profiles
}

// sweep calls f with all calls that are recorded for a profile.
func sweep(t testing.TB, s *specs.LinuxSeccomp, f func(a *abi, nr uint32, args [maxArgs]uint64)) {
	args := []uint64{0, 1, 2, 3, 8, 16, 0xffffffff, 1 << 32, 3<<32 | 2, 1 << 63}
	named := map[string]bool{"socketcall": true, "ipc": true, "getpid": true}
	for _, b := range s.Syscalls {
		for _, name := range b.Names {
			named[name] = named[name] || len(b.Args) > 0 || len(s.Syscalls) < 10
		}
	}
	for _, a := range abisOf(t, "amd64") {
		for nr := range uint32(457) { // libseccomp 2.5.4 knows Linux 6.7
			if nr == 335 || nr == 336 { // uretprobe and uprobe came later
				continue
			}
			f(a, nr, [maxArgs]uint64{})
		}
		for i := range syscalls {
			nr := syscalls[i].nr[a.column]
			if nr < 0 || !named[syscalls[i].name] {
				continue
			}
			for _, v := range args {
				for _, w := range args {
					f(a, uint32(nr), [maxArgs]uint64{v, w, 1})
					f(a, uint32(nr), [maxArgs]uint64{v, w, 0, 1})
				}
			}
		}
	}
}

func record(t testing.TB, s *specs.LinuxSeccomp, p program) []string {
	var runs []string
	var last action
	n := 0
	flush := func() {
		if n > 0 {
			runs = append(runs, fmt.Sprintf("%#x*%d", uint32(last), n))
		}
	}
	sweep(t, s, func(a *abi, nr uint32, args [maxArgs]uint64) {
		if act := p.decide(call{a.audit, nr | a.bit, args}); act != last || n == 0 {
			flush()
			last, n = act, 0
		}
		n++
	})
	flush()
	return runs
}

func expand(t testing.TB, runs []string) (actions []action) {
	for _, run := range runs {
		var act uint32
		var n int
		_, err := fmt.Sscanf(run, "0x%x*%d", &act, &n)
		require.NoError(t, err, run)
		for range n {
			actions = append(actions, action(act))
		}
	}
	return actions
}

func TestDecidesAsLibseccomp(t *testing.T) {
	profiles := recordedProfiles(t)
	if *update {
		o, all := newOracle(t), map[string][]string{}
		for name, s := range profiles {
			p, err := o.compile(t, s)
			require.NoError(t, err, name)
			all[name] = record(t, s, p)
		}
		b, err := json.MarshalIndent(all, "", " ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(recorded, append(b, '\n'), 0o644))
	}
	b, err := os.ReadFile(recorded)
	require.NoError(t, err)
	all := map[string][]string{}
	require.NoError(t, json.Unmarshal(b, &all))
	require.Len(t, all, len(profiles))
	for name, s := range profiles {
		t.Run(name, func(t *testing.T) {
			want := expand(t, all[name])
			p, n, i := compile(t, s, "amd64"), naive{s, "amd64"}, 0
			sweep(t, s, func(a *abi, nr uint32, args [maxArgs]uint64) {
				if n.newer(a, nr) { // runc's addition to what libseccomp makes
					want[i] = actENOSYS
				}
				assert.Equal(t, want[i], p.decide(call{a.audit, nr | a.bit, args}), "%s %d %#x", a.name, nr, args)
				i++
			})
			assert.Len(t, want, i)
		})
	}
}

// TestDecidesAsTheInstalledLibseccomp compares random profiles. Only
// equalities: with several inequalities on one call, libseccomp 2.5 makes
// filters that do not do what they say.
func TestDecidesAsTheInstalledLibseccomp(t *testing.T) {
	o := newOracle(t)
	names := []string{"personality", "dup", "socket", "shmat"}
	for seed := range int64(200) {
		r := rand.New(rand.NewSource(seed))
		s := randomProfile(r, names, []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpMaskedEqual})
		other := pick(r, specs.ActLog, specs.ActKillThread)
		for i := range s.Syscalls {
			for j := range s.Syscalls[i].Args {
				s.Syscalls[i].Args[j].Value &= 0xffffffff
				s.Syscalls[i].Args[j].ValueTwo &= 0xffffffff
			}
			if r.Intn(3) == 0 {
				s.Syscalls[i].Action = other
			}
		}
		want, err := o.compile(t, s)
		b, _, ours := Compile(s, "amd64")
		if ours != nil {
			assert.ErrorIs(t, err, errExists, "%+v", s)
		}
		if ours != nil || err != nil {
			continue
		}
		got, n := load(t, b), naive{s, "amd64"}
		sweep(t, s, func(a *abi, nr uint32, args [maxArgs]uint64) {
			c := call{a.audit, nr | a.bit, args}
			if !n.newer(a, nr) {
				require.Equal(t, want.decide(c), got.decide(c), "%s %v of %+v", a.name, c, s)
			}
		})
	}
}
