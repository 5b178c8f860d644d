package hook

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tailSize is how much of a hook's stderr becomes part of an error, in bytes.
const tailSize = 4096

// scratch is a file in memory without a name.
type scratch struct{ *os.File }

func newScratch(name string, content []byte) (scratch, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return scratch{}, fmt.Errorf("memfd_create: %w", err)
	}
	s := scratch{os.NewFile(uintptr(fd), name)}
	if _, err := s.WriteAt(content, 0); err != nil { // leaves the offset where the hook starts to read
		s.Close()
		return scratch{}, fmt.Errorf("write %s: %w", name, err)
	}
	return s, nil
}

// seal keeps the file from growing: what a daemon that the hook left behind
// goes on writing to it would otherwise be memory that nobody reads or frees.
func (s scratch) seal() {
	// Cannot fail on a memfd that was made with MFD_ALLOW_SEALING, except if
	// the hook sealed it itself.
	_, _ = unix.FcntlInt(s.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
}

// tail returns the last tailSize bytes.
func (s scratch) tail() string {
	info, err := s.Stat()
	if err != nil {
		return ""
	}
	start := max(0, info.Size()-tailSize)
	text := make([]byte, info.Size()-start)
	n, _ := s.ReadAt(text, start)
	return string(bytes.TrimSpace(text[:n]))
}
