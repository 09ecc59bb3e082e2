// Package logfile writes whole lines to a file that rotates. It notices when others move, remove or
// truncate the file, and writes a line about missing lines.
package logfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkEvery = 250 * time.Millisecond // how often Write compares path with the open file
	retryEvery = 10 * time.Second       // how often a file on a failing disk is replaced
	maxLine    = 64 << 10               // no line is longer
)

var (
	// ErrClosed is the error of a closed File.
	ErrClosed = errors.New("the log is closed")

	errSuspect = errors.New("the disk failed; the log tries a new file every 10 seconds")
	newline    = []byte("\n")
)

// Options has optional fields, MaxAge, Compress and Sync. The others are required.
type Options struct {
	MaxSize   int64         // of a file, in bytes
	MaxAge    time.Duration // how long a file is written to; 0: no limit
	KeepFiles int           // number of old files to keep
	Compress  bool          // compress old files with gzip
	Sync      bool          // Write returns after fsync

	Gap     func(reason string, lines int) []byte // returns a line about missing lines
	Written func(line []byte) (time.Time, error)  // returns the time in a line
	Warn    func(what string, err error)          // is called in a goroutine; no line is lost
}

// A File is the file at a path, with its old files. Its methods are safe for concurrent use.
type File struct {
	path string
	o    Options

	closed atomic.Bool // set with mu held; stops tidy

	mu      sync.Mutex
	lock    *os.File // keeps other Files from path
	f       *os.File // nil if it could not be opened; checkPath tries again
	broken  error    // why f is nil
	id      os.FileInfo
	size    int64
	lines   int       // whole lines in f
	synced  int       // with Sync: lines of f before the last fsync
	dirty   bool      // f was written to after the last fsync
	batch   *batch    // with Sync: lines after the last fsync
	started time.Time // when f was begun
	seq     uint64    // the highest number of an old file

	checked time.Time      // when f was last compared with path
	torn    bool           // f ends in part of a line
	suspect bool           // the disk failed: nothing more is written to f
	retry   time.Time      // the earliest time of the next rotation
	gaps    map[string]int // missing lines by reason, not yet reported

	background sync.WaitGroup // tidy and Warn
	untidy     atomic.Bool    // tidy is due
	tidying    sync.Mutex

	closing  sync.Once
	closeErr error
}

// A batch is the lines that share one fsync.
type batch struct {
	lines int
	err   error
}

// Open opens the file at path, or creates it with its directory. It fails if path is not a regular
// file of this user with one name, or is open already.
func Open(path string, o Options) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, o: o, checked: time.Now(), batch: &batch{}, gaps: map[string]int{}}
	if err := f.open(); err != nil {
		_ = f.closeFile()
		f.lock.Close()
		return nil, err
	}
	f.startTidying()
	return f, nil
}

// Write writes a line, newline included, at the time now. It returns nil if the whole line is in f.
func (f *File) Write(now time.Time, line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkPath(now)
	if err := f.put(now, line); err != nil || !f.o.Sync {
		return err
	}
	b := f.batch
	b.lines++
	f.mu.Unlock()
	runtime.Gosched() // callers that wait for mu add their lines to the batch
	f.mu.Lock()
	if f.batch == b { // not flushed yet
		f.flush()
	}
	return b.err
}

// put writes one line, or counts it as failed. It rotates first if that is due.
func (f *File) put(now time.Time, line []byte) error {
	if f.closed.Load() {
		return ErrClosed
	}
	err := f.ready(now, len(line))
	if err == nil && len(f.gaps) > 0 {
		err = f.writeGaps()
	}
	if err == nil {
		err = f.append(line)
	}
	if err != nil {
		f.gaps["failed"]++
	}
	return err
}

// ready returns nil if a line of size bytes can be written to f. It rotates if that is due.
func (f *File) ready(now time.Time, size int) error {
	due := f.suspect || f.size > 0 && (f.size+int64(size) > f.o.MaxSize ||
		f.o.MaxAge > 0 && now.Round(0).Sub(f.started) >= f.o.MaxAge)
	switch {
	case f.f == nil:
		return f.broken
	case f.suspect && now.Before(f.retry):
		return errSuspect
	case !due || now.Before(f.retry):
		return nil
	}
	err := f.rotate(now)
	switch {
	case err == nil:
		return nil
	case f.suspect, f.f == nil: // nil on systems where putAway closes it first
		f.retry, f.broken = now.Add(retryEvery), err
		return err
	}
	f.retry = now.Add(time.Second)
	f.warnNotReplaced(err)
	return nil
}

// warnNotReplaced reports why the log still writes to a file that should be replaced.
func (f *File) warnNotReplaced(err error) {
	f.background.Go(func() { // without mu: Warn may call Write
		f.o.Warn("the file could not be replaced, and is still in use", err)
	})
}

// checkPath compares path with the open file, if that is due, and opens path if they differ.
func (f *File) checkPath(now time.Time) {
	if since := now.Sub(f.checked); f.closed.Load() || since >= 0 && since < checkEvery {
		return
	}
	f.checked = now
	if f.f == nil {
		f.broken = f.open()
		return
	}
	info, err := os.Lstat(f.path)
	if err == nil && os.SameFile(info, f.id) {
		f.checkSize(info.Size())
		return
	}
	// A removed file is lost with its lines. A moved one stays in use until a new one is open.
	reason, lost := "moved", 0
	if info, err := f.f.Stat(); err != nil || linkCount(info) == 0 {
		reason, lost = "removed", f.lines
	}
	err = f.open()
	if err != nil && reason == "moved" {
		f.warnNotReplaced(err)
		return
	}
	f.gaps[reason] += lost
	if err != nil {
		f.broken = err
		_ = f.closeFile()
	}
}

// checkSize notices that another program wrote to the file or truncated it.
func (f *File) checkSize(size int64) {
	if size == f.size {
		return
	}
	before, shrunk := f.lines, size < f.size
	f.size = size
	f.scan()
	if shrunk {
		f.gaps["truncated"] += max(before-f.lines, 0)
		f.synced = min(f.synced, f.lines)
	}
}

// scan counts the whole lines of the file, and notices part of a line at its end.
func (f *File) scan() {
	f.lines, f.torn = 0, false
	buf := make([]byte, maxLine)
	var err error
	for at, n := int64(0), 0; err == nil; at += int64(n) {
		n, err = f.f.ReadAt(buf, at)
		f.lines += bytes.Count(buf[:n], newline)
		if n > 0 {
			f.torn = buf[n-1] != '\n'
		}
	}
	if err != io.EOF {
		f.lines, f.torn = max(f.lines, 1), true // it may have lines: rotate keeps the file
	}
	if f.torn {
		f.gaps["torn"]++
	}
}

// append writes one line. A newline first ends part of a line before it. If the write fails, append
// removes the part of this line.
func (f *File) append(line []byte) error {
	if f.torn {
		line = slices.Concat(newline, line)
	}
	n, err := f.f.Write(line)
	f.size += int64(n)
	f.dirty = true
	if err != nil {
		f.suspect = !noSpace(err)
		f.removeLast(int64(n))
		return err
	}
	f.torn = false
	f.lines++
	return nil
}

// removeLast removes the last n bytes, which are part of a line.
func (f *File) removeLast(n int64) {
	if n == 0 {
		return
	}
	info, err := f.f.Stat()
	if err != nil || info.Size() != f.size || f.f.Truncate(f.size-n) != nil {
		f.torn = true
		return
	}
	f.size -= n
}

// flush calls fsync for the batch. If that fails, it is not called again for this file: a second
// call could succeed although the lines are lost.
func (f *File) flush() error {
	b := f.batch
	if !f.o.Sync || !f.dirty {
		return nil
	}
	f.batch, f.dirty = &batch{}, false
	if b.err = f.f.Sync(); b.err != nil {
		f.suspect = true
		f.lines = f.synced
		f.gaps["failed"] += b.lines
	}
	f.synced = f.lines
	return b.err
}

// writeGaps writes a line for each gap, and then forgets the gap; with Sync, after fsync.
func (f *File) writeGaps() error {
	for reason, lines := range f.gaps {
		if err := f.append(f.o.Gap(reason, lines)); err != nil {
			return err
		}
		if err := f.flush(); err != nil {
			return err
		}
		delete(f.gaps, reason)
	}
	return nil
}

// Reopen opens the file that is at path now, or creates it.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed.Load() {
		return ErrClosed
	}
	return f.open()
}

// Close reports the gaps and closes the file. Later calls return the same error.
func (f *File) Close() error {
	f.closing.Do(func() {
		f.mu.Lock()
		f.closed.Store(true)
		var err error
		if f.f != nil && !f.suspect {
			err = f.writeGaps()
		}
		err = errors.Join(err, f.closeFile())
		f.mu.Unlock()
		f.background.Wait()
		f.closeErr = errors.Join(err, f.lock.Close())
	})
	return f.closeErr
}

// closeFile flushes and closes the open file, if there is one.
func (f *File) closeFile() error {
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.flush(), f.f.Close())
	f.f = nil
	return err
}
