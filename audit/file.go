package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// FileOptions says how a log file is kept.
type FileOptions struct{}

// OpenFile opens the log file at path, or makes it, with its directory: the
// file for its owner only (0600), the directory too (0700). Each event is one
// line, written whole by one write(2).
func OpenFile(path string, opts *FileOptions) (*Log, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("audit: open log %q: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("audit: open log %q: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: open log %q: %w", path, err)
	}
	return &Log{file: &file{f: f}}, nil
}

// A file is where lines go, one after another.
type file struct {
	mu sync.Mutex
	f  *os.File // nil: closed
}

func (f *file) write(line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return errClosed
	}
	_, err := f.f.Write(line)
	return err
}

func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}
