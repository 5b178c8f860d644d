package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// call is a system call as a filter sees it (struct seccomp_data).
type call struct {
	audit uint32
	nr    uint32
	args  [maxArgs]uint64
}

func (c call) String() string {
	return fmt.Sprintf("arch %#x call %d(%#x) args %#x", c.audit, c.nr&^x32Bit, c.nr, c.args)
}

func (c call) word(off uint32) uint32 {
	switch {
	case off == 0:
		return c.nr
	case off == 4:
		return c.audit
	case off < offArgs:
		return 0 // instruction pointer
	}
	arg := c.args[(off-offArgs)/8]
	if off%8 != 0 {
		return uint32(arg >> 32)
	}
	return uint32(arg)
}

// program is a compiled filter, checked like the kernel does on loading
// (bpf_check_classic, seccomp_check_filter).
type program []unix.SockFilter

func load(t testing.TB, b []byte) program {
	t.Helper()
	require.Zero(t, len(b)%8)
	p := make(program, len(b)/8)
	require.NotEmpty(t, p)
	require.LessOrEqual(t, len(p), unix.BPF_MAXINSNS)
	for i := range p {
		raw := b[i*8:]
		p[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(raw), Jt: raw[2], Jf: raw[3],
			K: binary.NativeEndian.Uint32(raw[4:]),
		}
	}
	for i, f := range p {
		last := i
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			require.Zero(t, f.K%4, "instruction %d", i)
			require.Less(t, f.K, uint32(64), "instruction %d", i)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K:
		case unix.BPF_JMP | unix.BPF_JA:
			last = i + 1 + int(f.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
			unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K,
			unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			last = i + 1 + max(int(f.Jt), int(f.Jf))
		default:
			require.Failf(t, "bad instruction", "%d: %#x", i, f.Code)
		}
		require.Less(t, last, len(p), "instruction %d jumps out", i)
	}
	require.EqualValues(t, unix.BPF_RET|unix.BPF_K, p[len(p)-1].Code)
	return p
}

// run is the kernel's interpreter. steps is the number of instructions.
func (p program) run(c call) (a action, steps int) {
	var acc uint32
	for pc := 0; ; pc++ {
		steps++
		f := p[pc]
		met := false
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = c.word(f.K)
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= f.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return action(f.K), steps
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(f.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			met = acc == f.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			met = acc > f.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			met = acc >= f.K
		}
		if met {
			pc += int(f.Jt)
		} else {
			pc += int(f.Jf)
		}
	}
}

func (p program) decide(c call) action {
	a, _ := p.run(c)
	return a
}
