package initop

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
)

// Encode makes one message of operations. Whether Exec was preceded by a
// Lookup in an earlier message is the helper's to know; all other errors wrap
// errdefs.ErrInvalidArgument.
func Encode(ops []Op) ([]byte, error) {
	msg := make([]byte, HeaderSize, HeaderSize+encodedSize(ops))
	for i, o := range ops {
		if err := check(ops, i); err != nil {
			return nil, fmt.Errorf("operation %d of %d: %w", i+1, len(ops), err)
		}
		msg = binary.LittleEndian.AppendUint32(msg, uint32(o.code))
		msg = binary.LittleEndian.AppendUint32(msg, uint32(len(o.payload)))
		msg = append(msg, o.payload...)
		msg = append(msg, make([]byte, padding(len(o.payload)))...)
	}
	length := len(msg) - HeaderSize
	if length > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes, at most %d can be sent: %w", length, MaxMessage, errdefs.ErrInvalidArgument)
	}
	binary.LittleEndian.PutUint32(msg[0:], Magic)
	binary.LittleEndian.PutUint16(msg[4:], Version)
	binary.LittleEndian.PutUint16(msg[6:], uint16(Descriptors(ops)))
	binary.LittleEndian.PutUint32(msg[8:], uint32(len(ops)))
	binary.LittleEndian.PutUint32(msg[12:], uint32(length))
	return msg, nil
}

// Descriptors is how many descriptors must be sent with the operations: one
// more than the highest index.
func Descriptors(ops []Op) int {
	n := FD(0)
	for _, o := range ops {
		n = max(n, o.fd+1)
	}
	return int(n)
}

func check(ops []Op, i int) error {
	o := ops[i]
	switch {
	case o.code == 0:
		return fmt.Errorf("empty operation: %w", errdefs.ErrInvalidArgument)
	case o.err != nil:
		return o.err
	case o.code == CodeExec && i+1 != len(ops):
		return o.invalid("not the last operation")
	}
	return nil
}

func encodedSize(ops []Op) int {
	n := 0
	for _, o := range ops {
		n += 8 + len(o.payload) + padding(len(o.payload))
	}
	return n
}

func padding(n int) int { return -n & 7 }
