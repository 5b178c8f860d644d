package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
)

// Socket is where the machine of that name serves.
func Socket(cache, name string) string { return filepath.Join(cache, name+".sock") }

// Serve hands the requests of other processes (Dial) to the guest, until it
// ends or ctx does.
func (m *Machine) Serve(ctx context.Context, socket string) error {
	if c, err := net.Dial("unix", socket); err == nil {
		_ = c.Close()
		return fmt.Errorf("another machine serves at %s", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		select {
		case <-ctx.Done():
		case <-m.ended:
		}
		_ = l.Close()
	}()
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "guest" },
		Transport:     m.Client.http.Transport,
		FlushInterval: -1,
	}
	if err := serve(l, proxy); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return m.failed
}
