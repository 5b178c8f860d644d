package stdio

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sink is where the output of a stream goes.
type sink struct {
	file *os.File
	// held is the reading end of a FIFO: while it is open, readers may come
	// and go without the writer noticing. nil otherwise.
	held *os.File
}

// openSink opens a target that is neither null nor a logger.
func openSink(ctx context.Context, t target) (*sink, error) {
	flag := os.O_WRONLY | os.O_APPEND | unix.O_NONBLOCK
	if t.kind == kindFile {
		if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
			return nil, err
		}
		flag |= os.O_CREATE
	}
	if info, err := os.Stat(t.path); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		return openFIFO(ctx, t.path)
	}
	f, err := os.OpenFile(t.path, flag, 0o644)
	if err != nil {
		return nil, err
	}
	return &sink{file: f}, nil
}

// close closes the sink. It returns true if linger must follow, and an error
// if a file's data may be lost: some file systems tell only then that there is
// no room for it.
func (s *sink) close() (linger bool, err error) {
	if s.held != nil {
		return s.closeFIFO(), nil
	}
	return false, s.file.Close()
}

// moverFrom chooses how a pipe is copied to the sink.
func (s *sink) moverFrom(pipe *os.File) mover {
	if s.held != nil {
		return newSplicer(pipe, s.file)
	}
	return &pump{in: descriptor(pipe), out: descriptor(s.file), lossy: true}
}

func isFIFO(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Mode()&os.ModeNamedPipe != 0, nil
}
