package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// applyDevices applies the rules in order. On v1 they change what is allowed;
// on v2 they replace the rules that there were, and what no rule speaks of is
// denied.
func (g *Group) applyDevices(rules []specs.LinuxDeviceCgroup) error {
	if len(rules) == 0 {
		return nil
	}
	if g.unified {
		return g.filter.replace(g.places[0].dir, rules)
	}
	if err := expressibleV1(rules); err != nil {
		return err
	}
	for i, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		s := setting{property: fmt.Sprintf("devices[%d]", i), controller: "devices", file: file, value: deviceRule(r)}
		if err := g.set(s); err != nil {
			return err
		}
	}
	return nil
}

// deviceRule is "type major:minor access" (cgroup-v1/devices.rst).
func deviceRule(r specs.LinuxDeviceCgroup) string {
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	kind := r.Type
	if kind == "" {
		kind = "a"
	}
	return fmt.Sprintf("%s %s:%s %s", kind, number(r.Major), number(r.Minor), accessOr(r.Access))
}

func accessOr(access string) string {
	if access == "" {
		return "rwm"
	}
	return access
}

// filter is the program of type BPF_PROG_TYPE_CGROUP_DEVICE that is attached
// to a v2 group. It stays attached when the shim ends.
type filter struct {
	mu      sync.Mutex
	program *ebpf.Program // nil if none was attached by this process
}

// replace attaches a program for new rules, and only then detaches the old
// one: of several programs, each must allow.
func (f *filter) replace(dir string, rules []specs.LinuxDeviceCgroup) error {
	instructions, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("linux.resources.devices: %w", err)
	}
	defer d.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupDevice, Instructions: instructions, License: "Apache"})
	if err != nil {
		return fmt.Errorf("linux.resources.devices: load BPF program: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(d.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	if err != nil {
		_ = program.Close()
		return fmt.Errorf("linux.resources.devices: attach BPF program to %s: %w", dir, err)
	}
	old := f.program
	f.program = program
	if old == nil {
		return nil
	}
	defer old.Close()
	err = link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: int(d.Fd()), Program: old, Attach: ebpf.AttachCGroupDevice,
	})
	if err != nil {
		return fmt.Errorf("linux.resources.devices: detach the former BPF program from %s: %w", dir, err)
	}
	return nil
}

// close gives back the program, which the kernel drops with the group.
func (f *filter) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.program != nil {
		_ = f.program.Close() // only the descriptor
		f.program = nil
	}
}

// Registers of the program. R1 is struct bpf_cgroup_dev_ctx of linux/bpf.h:
// three words, access and type in one, major, minor.
const (
	regType, regWanted, regMajor, regMinor = asm.R2, asm.R3, asm.R4, asm.R5
	regScratch                             = asm.R1
)

// deviceProgram translates rules to BPF. What counts for each kind of access
// is the last rule that speaks of it, as in v1: so the program goes through
// the rules from the last to the first, with the accesses that are still to be
// decided. (The library's DeviceFilter lets a rule for some of the wanted
// accesses decide about all of them.)
func deviceProgram(rules []specs.LinuxDeviceCgroup) (asm.Instructions, error) {
	p := asm.Instructions{
		asm.LoadMem(regType, asm.R1, 0, asm.Half),
		asm.LoadMem(regWanted, asm.R1, 0, asm.Word),
		asm.RSh.Imm32(regWanted, 16),
		asm.LoadMem(regMajor, asm.R1, 4, asm.Word),
		asm.LoadMem(regMinor, asm.R1, 8, asm.Word),
	}
	for i := len(rules) - 1; i >= 0; i-- {
		block, err := deviceBlock(rules[i], fmt.Sprintf("before-%d", i))
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d]: %w: %w", i, err, errdefs.ErrInvalidArgument)
		}
		if i < len(rules)-1 {
			block[0] = block[0].WithSymbol(fmt.Sprintf("before-%d", i+1))
		}
		p = append(p, block...)
	}
	deny := asm.Mov.Imm32(asm.R0, 0)
	if len(rules) > 0 {
		deny = deny.WithSymbol("before-0")
	}
	return append(p, deny, asm.Return()), nil
}

// deviceBlock is one rule; next is where it goes if it does not decide.
func deviceBlock(r specs.LinuxDeviceCgroup, next string) (asm.Instructions, error) {
	access, err := accessBits(accessOr(r.Access))
	if err != nil {
		return nil, err
	}
	// Does nothing, but there is always an instruction to jump to.
	block := asm.Instructions{asm.Mov.Reg(regScratch, regWanted)}
	switch r.Type {
	case "c", "u":
		block = append(block, asm.JNE.Imm(regType, unix.BPF_DEVCG_DEV_CHAR, next))
	case "b":
		block = append(block, asm.JNE.Imm(regType, unix.BPF_DEVCG_DEV_BLOCK, next))
	case "", "a":
	default:
		return nil, fmt.Errorf("type: %q is not one of a, b, c", r.Type)
	}
	if r.Major != nil && *r.Major >= 0 {
		block = append(block, asm.JNE.Imm(regMajor, int32(*r.Major), next))
	}
	if r.Minor != nil && *r.Minor >= 0 {
		block = append(block, asm.JNE.Imm(regMinor, int32(*r.Minor), next))
	}
	if r.Allow {
		return append(block,
			asm.And.Imm32(regWanted, ^access),
			asm.JNE.Imm(regWanted, 0, next),
			asm.Mov.Imm32(asm.R0, 1),
			asm.Return(),
		), nil
	}
	return append(block,
		asm.And.Imm32(regScratch, access),
		asm.JEq.Imm(regScratch, 0, next),
		asm.Mov.Imm32(asm.R0, 0),
		asm.Return(),
	), nil
}

func accessBits(access string) (int32, error) {
	const letters = "mrw" // BPF_DEVCG_ACC_MKNOD, _READ, _WRITE: 1, 2, 4
	var bits int32
	for _, c := range access {
		i := strings.IndexRune(letters, c)
		if i < 0 {
			return 0, fmt.Errorf("access: %q has another letter than r, w and m", access)
		}
		bits |= 1 << i
	}
	return bits, nil
}
