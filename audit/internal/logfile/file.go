// Package logfile writes whole lines to a file that rotates. It notices what others do to the file,
// and writes a line of its own where lines are missing.
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
	lookEvery  = 250 * time.Millisecond // how often path is compared with what is open
	retryEvery = 10 * time.Second       // how often a file on a failing disk is replaced
	maxLine    = 64 << 10               // no line is longer
)

var (
	// ErrClosed is returned by a File that is closed.
	ErrClosed = errors.New("the log is closed")

	errSuspect = errors.New("the disk failed lately")
	newline    = []byte("\n")
)

// Options are required, but for MaxAge, Compress and Sync.
type Options struct {
	MaxSize   int64         // bytes that a file does not grow beyond
	MaxAge    time.Duration // how long a file is written to; 0: no limit
	KeepFiles int           // old files that are kept
	Compress  bool          // old files are compressed with gzip
	Sync      bool          // Write returns when the line is on the disk

	// Gap returns the line that says that lines may be missing.
	Gap func(reason string, lines int) []byte
	// Written returns when a line was written, as the line itself says.
	Written func(line []byte) (time.Time, error)
	// Warn reports a fault that loses no line. A goroutine calls it.
	Warn func(what string, err error)
}

// A File is the file at a path and the old files beside it. Its methods may be called concurrently.
type File struct {
	path string
	o    Options

	closed atomic.Bool // set with mu held; tidying ends

	mu     sync.Mutex
	lock   *os.File // makes this File the only one at path
	f      *os.File // nil: none could be opened; each look tries again
	broken error    // why f is nil
	id     os.FileInfo
	size   int64
	lines  int       // whole lines in f
	synced int       // those of them that are on the disk, if Sync
	dirty  bool      // something was written since
	batch  *batch    // the other ones
	born   time.Time // when f was begun
	seq    uint64    // the highest number of an old file

	looked  time.Time      // when f was last compared with path
	torn    bool           // f ends in part of a line
	suspect bool           // the disk failed on f: nothing more is written to it
	retry   time.Time      // no rotation is tried before
	gaps    map[string]int // missing lines by reason, of which no line tells yet

	background sync.WaitGroup // tidying, and warnings
	untidy     atomic.Bool    // tidying is due
	tidying    sync.Mutex

	closing  sync.Once
	closeErr error
}

// A batch is lines that share one fsync.
type batch struct {
	lines int
	err   error
}

// Open opens the file at path, or makes it, with its directory. It fails where path is not a
// regular file of this user's with one name, or is open already.
func Open(path string, o Options) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, o: o, looked: time.Now(), batch: &batch{}, gaps: map[string]int{}}
	if err := f.open(); err != nil {
		f.lock.Close()
		return nil, err
	}
	f.startTidying()
	return f, nil
}

// Write writes a line, newline included, at the time now. It returns nil if the file has it whole.
func (f *File) Write(now time.Time, line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look(now)
	if err := f.put(now, line); err != nil || !f.o.Sync {
		return err
	}
	b := f.batch
	b.lines++
	f.mu.Unlock()
	runtime.Gosched() // callers that wait for mu write their lines to the batch
	f.mu.Lock()
	if f.batch == b { // nobody has flushed it
		f.flush()
	}
	return b.err
}

// put writes one line to the file that is due, or counts it as failed.
func (f *File) put(now time.Time, line []byte) error {
	if f.closed.Load() {
		return ErrClosed
	}
	err := f.ready(now, len(line))
	if err == nil && len(f.gaps) > 0 {
		err = f.tellGaps()
	}
	if err == nil {
		err = f.append(line)
	}
	if err != nil {
		f.gaps["failed"]++
	}
	return err
}

// ready makes sure that a line of so many bytes can be written to f.
func (f *File) ready(now time.Time, size int) error {
	due := f.suspect || f.size > 0 && (f.size+int64(size) > f.o.MaxSize ||
		f.o.MaxAge > 0 && now.Round(0).Sub(f.born) >= f.o.MaxAge)
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
	case f.suspect, f.f == nil: // nil where it had to be closed first
		f.retry, f.broken = now.Add(retryEvery), err
		return err
	}
	f.retry = now.Add(time.Second)
	f.serve(err)
	return nil
}

// serve reports why a file serves that should have been replaced.
func (f *File) serve(err error) {
	f.background.Go(func() { // without mu: Warn may lead back here
		f.o.Warn("the file could not be renewed, and is written to further", err)
	})
}

// look compares what is open with what is at path, if that is due, and opens it if it is another.
func (f *File) look(now time.Time) {
	if since := now.Sub(f.looked); f.closed.Load() || since >= 0 && since < lookEvery {
		return
	}
	f.looked = now
	if f.f == nil {
		f.broken = f.open()
		return
	}
	info, err := os.Lstat(f.path)
	if err == nil && os.SameFile(info, f.id) {
		f.measure(info.Size())
		return
	}
	// A file without a name is lost with its lines. A moved one serves until there is another.
	reason, lost := "moved", 0
	if info, err := f.f.Stat(); err != nil || names(info) == 0 {
		reason, lost = "removed", f.lines
	}
	err = f.open()
	if err != nil && reason == "moved" {
		f.serve(err)
		return
	}
	f.gaps[reason] += lost
	if err != nil {
		f.broken = err
		_ = f.closeFile()
	}
}

// measure notices that somebody else wrote to the file or truncated it.
func (f *File) measure(size int64) {
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

// scan counts the file's whole lines, and notices part of a line at its end, to be closed off.
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
		f.lines, f.torn = max(f.lines, 1), true // it may have some: they are kept
	}
	if f.torn {
		f.gaps["torn"]++
	}
}

// append writes one line. It closes off part of a line before it, and takes back part of this one.
func (f *File) append(line []byte) error {
	if f.torn {
		line = slices.Concat(newline, line)
	}
	n, err := f.f.Write(line)
	f.size += int64(n)
	f.dirty = true
	if err != nil {
		f.suspect = !noSpace(err)
		f.takeBack(int64(n))
		return err
	}
	f.torn = false
	f.lines++
	return nil
}

// takeBack removes the last n bytes, which are part of a line.
func (f *File) takeBack(n int64) {
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

// flush brings the batch to the disk. Where fsync fails once, it is not asked again: a second call
// would succeed without having written anything.
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

// tellGaps writes a line for each gap, and forgets the gap; with Sync, once that is on the disk.
func (f *File) tellGaps() error {
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

// Reopen opens what is at path now, or makes it.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed.Load() {
		return ErrClosed
	}
	return f.open()
}

// Close closes the file. Later calls return the same.
func (f *File) Close() error {
	f.closing.Do(func() {
		f.mu.Lock()
		f.closed.Store(true)
		var err error
		if f.f != nil && !f.suspect {
			err = f.tellGaps()
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
