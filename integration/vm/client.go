package vm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Command is a program to run in the guest, as root.
type Command struct {
	Args []string
	Env  []string // beside PATH, HOME, and the variables of a service
	Dir  string   // "/" if empty
	// Timeout ends it, with everything that it started: exit code 124. Ten
	// minutes if 0.
	Timeout time.Duration

	Stdin          io.Reader `json:"-"`
	Stdout, Stderr io.Writer `json:"-"`
}

// A response to a command is frames: one byte that says what it is, four of
// length, the bytes.
const (
	frameStdout = 1
	frameStderr = 2
	frameExit   = 3 // decimal
	frameError  = 4 // the command could not be run
)

// Client talks to the agent of a guest.
type Client struct{ http *http.Client }

// newClient takes a connection to the one agent at its other end.
func newClient(conn net.Conn) *Client {
	var once sync.Once
	return newClientOf(func(context.Context, string, string) (net.Conn, error) {
		err := errors.New("the connection to the guest is lost")
		once.Do(func() { err = nil })
		return conn, err
	})
}

// Dial returns a client of the machine that serves at a socket (Serve).
func Dial(socket string) *Client {
	return newClientOf(func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
}

func newClientOf(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Client {
	t := &http.Transport{DialContext: dial, Protocols: plainHTTP2(), DisableCompression: true}
	return &Client{&http.Client{Transport: t}}
}

// plainHTTP2 carries several commands at once over one connection.
func plainHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func (c *Client) close() { c.http.CloseIdleConnections() }

// Ping waits for the agent.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.do(ctx, "/ping", nil, nil)
	return err
}

// Run runs a command, and returns its exit code.
func (c *Client) Run(ctx context.Context, cmd Command) (int, error) {
	text, err := json.Marshal(cmd)
	if err != nil {
		return 0, err
	}
	body, err := c.do(ctx, "/run", url.Values{"command": {string(text)}}, cmd.Stdin)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	return readFrames(body, cmd)
}

func readFrames(r io.Reader, cmd Command) (int, error) {
	to := map[byte]io.Writer{frameStdout: cmd.Stdout, frameStderr: cmd.Stderr}
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, fmt.Errorf("the guest does not say how %q ended: %w", cmd.Args, err)
		}
		data := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(r, data); err != nil {
			return 0, err
		}
		switch head[0] {
		case frameExit:
			var code int
			_, err := fmt.Sscan(string(data), &code)
			return code, err
		case frameError:
			return 0, fmt.Errorf("run %q: %s", cmd.Args, data)
		}
		if w := to[head[0]]; w != nil {
			if _, err := w.Write(data); err != nil {
				return 0, err
			}
		}
	}
}

// Put writes a file of the guest.
func (c *Client) Put(ctx context.Context, path string, mode uint32, from io.Reader) error {
	body, err := c.do(ctx, "/put", url.Values{"path": {path}, "mode": {fmt.Sprintf("%o", mode)}}, from)
	if err != nil {
		return err
	}
	return body.Close()
}

// Get reads a file of the guest.
func (c *Client) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	return c.do(ctx, "/get", url.Values{"path": {path}}, nil)
}

func (c *Client) do(ctx context.Context, path string, query url.Values, from io.Reader) (io.ReadCloser, error) {
	if from != nil {
		from = struct{ io.Reader }{from} // nothing of it but what it reads
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest"+path+"?"+query.Encode(), from)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		_ = res.Body.Close()
		return nil, fmt.Errorf("the guest: %s", strings.TrimSpace(string(text)))
	}
	return res.Body, nil
}
