package metadata

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/net/http2/hpack"
)

// Types of frames, and their flags (RFC 9113, section 6).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 0x1 // of data and headers
	flagAck        = 0x1 // of settings and pings
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	streamID  = 1 // the only one
	headSize  = 9
	maxFrame  = 16384         // that may be sent to us, as we ask for no other size
	maxAnswer = 4 << 20       // as gRPC has it
	window    = 2 * maxAnswer // never full

	settingPush   = 2
	settingWindow = 4
)

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// opening is everything that the client has to say: windows for the whole
// answer, and the request.
func opening(namespace, method string, request []byte) []byte {
	var settings []byte
	for _, s := range []struct {
		id    uint16
		value uint32
	}{{settingPush, 0}, {settingWindow, window}} {
		settings = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(settings, s.id), s.value)
	}
	var headers bytes.Buffer
	encoder := hpack.NewEncoder(&headers)
	for _, h := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "localhost"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "containerd-namespace", Value: namespace},
	} {
		_ = encoder.WriteField(h) // to a buffer
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...) // not compressed
	b := []byte(preface)
	b = appendFrame(b, frameSettings, 0, 0, settings)
	b = appendFrame(b, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, window))
	b = appendFrame(b, frameHeaders, flagEndHeaders, streamID, headers.Bytes())
	return appendFrame(b, frameData, flagEndStream, streamID, message)
}

// stream reads the answer.
type stream struct {
	in     *bufio.Reader
	out    io.Writer
	fields *hpack.Decoder
	data   []byte
	status string // of gRPC; "" before it is known
	reason string
	ends   bool // with the headers that are being read
}

func newStream(conn io.ReadWriter) *stream {
	s := &stream{in: bufio.NewReader(conn), out: conn}
	s.fields = hpack.NewDecoder(4096, func(f hpack.HeaderField) { // the table's size before anybody sets another
		switch f.Name {
		case "grpc-status":
			s.status = f.Value
		case "grpc-message":
			s.reason = f.Value
		}
	})
	s.fields.SetMaxStringLength(maxFrame)
	return s
}

// answer is the message that the server sends.
func (s *stream) answer() ([]byte, error) {
	for done := false; !done; {
		var err error
		if done, err = s.frame(); err != nil {
			return nil, err
		}
	}
	if s.status != "0" {
		return nil, fmt.Errorf("gRPC status %q: %s", s.status, s.reason)
	}
	const prefix = 5
	if len(s.data) < prefix || s.data[0] != 0 || int64(binary.BigEndian.Uint32(s.data[1:])) != int64(len(s.data)-prefix) {
		return nil, errors.New("not one message that is not compressed")
	}
	return s.data[prefix:], nil
}

// frame reads a frame, and says whether it was the last one of the answer.
func (s *stream) frame() (last bool, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return false, err
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if size > maxFrame {
		return false, fmt.Errorf("a frame of %d bytes", size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(s.in, payload); err != nil {
		return false, err
	}
	switch kind, flags := head[3], head[4]; kind {
	case frameData:
		return flags&flagEndStream != 0, s.more(flags, payload)
	case frameHeaders:
		s.ends = flags&flagEndStream != 0
		if payload, err = unpad(flags, payload); err != nil {
			return false, err
		}
		if flags&flagPriority != 0 {
			const priority = 5
			if len(payload) < priority {
				return false, errors.New("a truncated frame")
			}
			payload = payload[priority:]
		}
		return s.header(flags, payload)
	case frameContinuation:
		return s.header(flags, payload)
	case frameReset, frameGoAway:
		return false, fmt.Errorf("ended by the server: %x", payload)
	case frameSettings, framePing:
		return false, s.acknowledge(kind, flags, payload)
	}
	return false, nil
}

func (s *stream) more(flags byte, payload []byte) error {
	payload, err := unpad(flags, payload)
	if err == nil && len(s.data)+len(payload) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	s.data = append(s.data, payload...)
	return err
}

func (s *stream) header(flags byte, block []byte) (last bool, err error) {
	if _, err := s.fields.Write(block); err != nil {
		return false, err
	}
	if flags&flagEndHeaders == 0 {
		return false, nil
	}
	return s.ends, s.fields.Close()
}

// acknowledge answers as the protocol wants it.
func (s *stream) acknowledge(kind, flags byte, payload []byte) error {
	if flags&flagAck != 0 {
		return nil
	}
	if kind == frameSettings {
		payload = nil
	}
	_, err := s.out.Write(appendFrame(nil, kind, flagAck, 0, payload))
	return err
}

func unpad(flags byte, payload []byte) ([]byte, error) {
	if flags&flagPadded == 0 {
		return payload, nil
	}
	if len(payload) == 0 || int(payload[0]) >= len(payload) {
		return nil, errors.New("a frame of padding alone")
	}
	return payload[1 : len(payload)-int(payload[0])], nil
}
