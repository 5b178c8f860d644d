package helper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cageforge/containerd-shim-nexcage/oci/initop"
)

// decode is docs/helper-protocol.md once more, written apart from the C side:
// it returns the codes of a valid message.
func decode(msg []byte, lookedUp bool) ([]initop.Code, error) {
	le := binary.LittleEndian
	if len(msg) < initop.HeaderSize {
		return nil, errors.New("short")
	}
	body := msg[initop.HeaderSize:]
	nfds, nops := le.Uint16(msg[6:]), le.Uint32(msg[8:])
	switch {
	case le.Uint32(msg) != initop.Magic, le.Uint16(msg[4:]) != initop.Version:
		return nil, errors.New("not a message")
	case nfds > initop.MaxFDs, len(body) > initop.MaxMessage, len(body)%8 != 0:
		return nil, errors.New("too large, or not padded")
	case le.Uint32(msg[12:]) != uint32(len(body)):
		return nil, errors.New("length")
	}
	var codes []initop.Code
	for range nops {
		if len(body) < 8 || uint64(len(body)-8) < uint64(le.Uint32(body[4:])) {
			return nil, errors.New("truncated")
		}
		code, n := initop.Code(le.Uint32(body)), int(le.Uint32(body[4:]))
		next := 8 + (n+7)/8*8
		if next > len(body) || bytes.Trim(body[8+n:next], "\x00") != nil {
			return nil, errors.New("padding")
		}
		if !validPayload(code, body[8:8+n], uint32(nfds)) {
			return nil, fmt.Errorf("operation %d", code)
		}
		codes, body = append(codes, code), body[next:]
		lookedUp = lookedUp || code == initop.CodeLookup
		if code == initop.CodeExec && (!lookedUp || uint32(len(codes)) != nops) {
			return nil, errors.New("exec")
		}
	}
	if len(body) > 0 {
		return nil, errors.New("trailing bytes")
	}
	return codes, nil
}

func validPayload(code initop.Code, p []byte, nfds uint32) bool {
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(p[4*i:]) }
	switch code {
	case initop.CodeResetSignals, initop.CodeSetSID, initop.CodeKeepCaps, initop.CodeNoNewPrivs,
		initop.CodeFork, initop.CodeSessionKeyring:
		return len(p) == 0
	case initop.CodeDup2:
		return len(p) == 8 && u32(0) < nfds && u32(1) <= initop.MaxTarget
	case initop.CodeSetCTTY:
		return len(p) == 4 && u32(0) <= initop.MaxTarget
	case initop.CodeUmask, initop.CodeSetGID, initop.CodeSetUID, initop.CodePersonality, initop.CodeCloseFrom,
		initop.CodeUnshare:
		return len(p) == 4
	case initop.CodeRLimit:
		return len(p) == 24 && u32(1) == 0
	case initop.CodeSetGroups:
		return len(p)%4 == 0 && len(p)/4 <= initop.MaxGroups
	case initop.CodeDropBounding, initop.CodeSetAmbient:
		return len(p) == 8
	case initop.CodeSetCaps:
		return len(p) == 24
	case initop.CodeChdir, initop.CodeFSOpen, initop.CodeTryChdir, initop.CodeRetryChdir:
		return len(p) >= 2 && countStrings(p) == 1
	case initop.CodeSeccomp:
		return len(p) > 8 && len(p)%8 == 0 && len(p)/8-1 <= initop.MaxFilter && u32(1) == 0
	case initop.CodeLookup:
		return len(p) >= 8 && u32(1) <= 1 && (u32(1) == 1 || u32(0) == 1) && countStrings(p[8:]) == int(u32(0))
	case initop.CodeExec:
		return validExec(p)
	case initop.CodeJoinCgroup:
		return len(p) == 4 && u32(0) < nfds
	case initop.CodeSetNS:
		return len(p) == 8 && u32(0) < nfds
	case initop.CodeWriteAt:
		return len(p) >= 12 && u32(0) < nfds && u32(1) == 0 && countStrings(p[8:]) == 2
	case initop.CodeMempolicy:
		return len(p) >= 8 && len(p)%8 == 0 && u32(1) == 0 && len(p)-8 <= initop.MaxNodes/8
	case initop.CodeAffinity:
		return len(p) >= 8 && len(p)%8 == 0 && len(p) <= initop.MaxCPUs/8
	case initop.CodeWriteFD:
		return len(p) > 8 && u32(0) < nfds && u32(1) == 0
	}
	return false
}

func validExec(p []byte) bool {
	if len(p) < 8 {
		return false
	}
	argc, envc := uint64(binary.LittleEndian.Uint32(p)), uint64(binary.LittleEndian.Uint32(p[4:]))
	table := 8 * (argc + envc + 2)
	if argc == 0 || uint64(len(p)-8) < table || bytes.Trim(p[8:8+table], "\x00") != nil {
		return false
	}
	return countStrings(p[8+table:]) == int(argc+envc)
}

// countStrings is -1 if the last one has no end.
func countStrings(p []byte) int {
	if len(p) > 0 && p[len(p)-1] != 0 {
		return -1
	}
	return bytes.Count(p, []byte{0})
}
