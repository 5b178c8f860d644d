package metadata

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// maxAnswer bounds an answer, in bytes, as gRPC's library does.
const maxAnswer = 4 << 20

// prefix is what gRPC puts before a message: whether it is compressed, and its
// length (gRPC over HTTP/2, Length-Prefixed-Message).
const prefix = 5

// call makes a unary call of gRPC on a connection of its own.
func call(ctx context.Context, socket, namespace, method string, request []byte) ([]byte, error) {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: protocols, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer t.CloseIdleConnections()
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Containerd-Namespace": {namespace}}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, prefix+maxAnswer+1))
	if err != nil {
		return nil, err
	}
	return message(answer, resp.Header, resp.Trailer)
}

// message takes the message out of a complete answer.
func message(answer []byte, header, trailer http.Header) ([]byte, error) {
	if len(answer) > prefix+maxAnswer {
		return nil, errors.New("the answer is too long")
	}
	// The trailers are the headers where there is no message.
	status := func(key string) string { return cmp.Or(trailer.Get(key), header.Get(key)) }
	if s := status("Grpc-Status"); s != "0" {
		return nil, fmt.Errorf("gRPC status %q: %s", s, status("Grpc-Message"))
	}
	if len(answer) < prefix || answer[0] != 0 || int64(binary.BigEndian.Uint32(answer[1:])) != int64(len(answer)-prefix) {
		return nil, errors.New("not one message that is not compressed")
	}
	return answer[prefix:], nil
}
