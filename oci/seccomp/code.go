package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// code is a program that is written from its end to its beginning. BPF jumps
// only forwards, so every target exists when a jump to it is written.
type code struct {
	reversed []unix.SockFilter
	rets     map[action]label
}

// label is an instruction, counted from the end of the program: 1 is the
// last one.
type label int

func (c *code) emit(i unix.SockFilter) label {
	c.reversed = append(c.reversed, i)
	return label(len(c.reversed))
}

// ret gives an instruction that ends the program.
func (c *code) ret(a action) label {
	l, ok := c.rets[a]
	if !ok {
		l = c.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(a)})
		if c.rets == nil {
			c.rets = map[action]label{}
		}
		c.rets[a] = l
	}
	return l
}

// load puts the word at an offset into the accumulator, and goes on with what
// was written last.
func (c *code) load(offset uint32) label {
	return c.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// and masks the accumulator, and goes on with what was written last.
func (c *code) and(mask uint32) label {
	return c.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
}

// jump compares the accumulator with k. A conditional jump reaches 255
// instructions; a target further off is reached over a trampoline behind it.
func (c *code) jump(op uint16, k uint32, met, unmet label) label {
	for {
		switch {
		case c.skip(met) > 255:
			met = c.trampoline(met)
		case c.skip(unmet) > 255:
			unmet = c.trampoline(unmet)
		default:
			return c.emit(unix.SockFilter{
				Code: unix.BPF_JMP | op | unix.BPF_K, K: k,
				Jt: uint8(c.skip(met)), Jf: uint8(c.skip(unmet)),
			})
		}
	}
}

// skip is the number of instructions between one that is written now and l.
func (c *code) skip(l label) int { return len(c.reversed) - int(l) }

// trampoline writes an instruction that does what a jump to l would.
func (c *code) trampoline(l label) label {
	if i := c.reversed[l-1]; i.Code == unix.BPF_RET|unix.BPF_K {
		return c.emit(i)
	}
	return c.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(c.skip(l))})
}

// bytes is the program as the kernel reads it.
func (c *code) bytes() []byte {
	b := make([]byte, 0, len(c.reversed)*unix.SizeofSockFilter)
	for i := len(c.reversed) - 1; i >= 0; i-- {
		f := c.reversed[i]
		b = binary.NativeEndian.AppendUint16(b, f.Code)
		b = append(b, f.Jt, f.Jf)
		b = binary.NativeEndian.AppendUint32(b, f.K)
	}
	return b
}
