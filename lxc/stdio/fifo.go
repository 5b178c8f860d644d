package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// partnerTimeout bounds how long Open waits for somebody to read a FIFO, as in
// the runc shim, and for a logger.
const partnerTimeout = 30 * time.Second

// openFIFO opens a FIFO for writing once it has a reader: before, nobody would
// miss what is written when the writer ends.
func openFIFO(ctx context.Context, path string) (*sink, error) {
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return openFIFOLater(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	return holdFIFO(w)
}

func openFIFOLater(ctx context.Context, path string) (*sink, error) {
	partner, err := awaitReader(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("nobody reads %s: %w", path, err)
	}
	defer partner.Close() //nolint:errcheck // it has done its duty
	// The reader may have left again: with an end of its own, ours opens
	// all the same.
	r, err := openBlocking(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		closeAll(r)
		return nil, err
	}
	return &sink{file: w, held: r}, nil
}

// holdFIFO adds the reading end that we hold ourselves.
func holdFIFO(w *os.File) (*sink, error) {
	r, err := openBlocking(w.Name(), unix.O_RDONLY)
	if err != nil {
		closeAll(w)
		return nil, err
	}
	return &sink{file: w, held: r}, nil
}

// awaitReader waits until somebody has the FIFO open for reading.
func awaitReader(ctx context.Context, path string) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	return fifo.OpenFifo(ctx, path, unix.O_WRONLY, 0)
}

// closeFIFO closes both ends, except when there is output in the FIFO, and no
// reader at the moment: the kernel would discard it. Then it returns true, and
// linger must follow.
func (s *sink) closeFIFO() (linger bool) {
	n, err := queued(s.file)
	closeAll(s.held)
	if err == nil && n > 0 && !s.hasReader() {
		return true
	}
	closeAll(s.file)
	return false
}

// linger keeps the writing end open until a reader comes (containerd restarts,
// a client attaches) or ctx is done.
func (s *sink) linger(ctx context.Context) {
	reader, err := fifo.OpenFifo(ctx, s.file.Name(), unix.O_WRONLY, 0)
	closeAll(s.file)
	if err == nil {
		_ = reader.Close()
	}
}

func (s *sink) hasReader() (yes bool) {
	err := control(s.file, func(fd int) error {
		yes = ready(unix.PollFd{Fd: int32(fd)})[0].Revents&unix.POLLERR == 0
		return nil
	})
	return yes && err == nil
}

// source is where stdin comes from.
type source struct {
	file *os.File
	// held is a writing end of the FIFO: while it is open, clients may come
	// and go, and the process sees no end of file. nil otherwise.
	held *os.File
}

// openSource opens a stdin, without waiting for a client.
func openSource(path string) (*source, error) {
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	isFIFO, err := isFIFO(r)
	if err != nil || !isFIFO {
		return &source{file: r}, err
	}
	w, err := openBlocking(path, unix.O_WRONLY)
	if err != nil {
		closeAll(r)
		return nil, err
	}
	return &source{file: r, held: w}, nil
}

func (s *source) close() { closeAll(s.file, s.held) }
