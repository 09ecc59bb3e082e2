// Package logfile writes whole lines to a file that rotates. It notices what
// others do to the file, and writes a line of its own where lines are missing.
package logfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lookEvery  = 250 * time.Millisecond // how often path is compared with what is open
	retryEvery = 10 * time.Second       // how often a file on a failing disk is replaced
	maxLine    = 64 << 10               // no line is longer
)

// ErrClosed is returned by a File that is closed.
var ErrClosed = errors.New("the log is closed")

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

// A File is the file at a path, and the old files beside it. Its methods may
// be called concurrently.
type File struct {
	path string
	o    Options
	batches

	mu     sync.Mutex
	closed bool
	lock   *os.File // makes this File the only one at path
	f      *os.File // nil: none could be opened; each look tries again
	broken error    // why f is nil
	id     os.FileInfo
	size   int64
	lines  int       // whole lines in f, and on the disk if Sync
	fresh  int       // further lines in f, without an fsync yet
	born   time.Time // when f was begun
	seq    uint64    // the highest number of an old file

	looked  time.Time // when f was last compared with path
	torn    bool      // f ends in part of a line
	suspect bool      // the disk failed on f: nothing more is written to it
	retry   time.Time // no rotation is tried before
	gaps    gaps

	tidying sync.WaitGroup // and warnings
	untidy  atomic.Int32   // rotations since the old files were last looked at
	stop    chan struct{}  // closed: tidying ends
}

// gaps counts missing lines by reason: those that no line in the file speaks
// of yet, and those of which a line does that is not on the disk yet.
type gaps struct{ untold, told map[string]int }

func (g *gaps) add(reason string, lines int) {
	if g.untold == nil {
		g.untold, g.told = map[string]int{}, map[string]int{}
	}
	g.untold[reason] += lines
}

// Open opens the file at path, or makes it, with its directory. It fails where
// path is not a regular file of this user's with one name, or is open already.
func Open(path string, o Options) (*File, error) {
	f := &File{path: path, o: o, stop: make(chan struct{})}
	if err := f.open(); err != nil {
		if f.lock != nil {
			f.lock.Close()
		}
		return nil, err
	}
	f.looked = time.Now()
	f.startTidying()
	return f, nil
}

// Write writes one line, which ends in a newline, at the time now. It returns
// nil if the line is in the file as a whole.
func (f *File) Write(now time.Time, line []byte) error {
	if f.o.Sync {
		return f.commit(line)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look(now)
	return f.put(now, line)
}

// serve reports why a file serves that should have been replaced.
func (f *File) serve(err error) {
	f.tidying.Go(func() { // without mu: Warn may lead back here
		f.o.Warn("the file could not be renewed, and is written to further", err)
	})
}

// put writes one line to the file that is due, and counts it.
func (f *File) put(now time.Time, line []byte) error {
	if f.closed {
		return ErrClosed
	}
	err := f.ready(now, len(line))
	if err == nil {
		if len(f.gaps.untold) > 0 {
			f.tellGaps()
		}
		err = f.append(line)
	}
	if err != nil {
		f.gaps.add("failed", 1)
	}
	return err
}

// due reports whether a line of so many bytes needs another file.
func (f *File) due(now time.Time, size int) bool {
	return f.suspect || f.size > 0 && (f.size+int64(size) > f.o.MaxSize ||
		f.o.MaxAge > 0 && now.Round(0).Sub(f.born) >= f.o.MaxAge)
}

var errSuspect = errors.New("the disk failed lately")

// ready makes sure that a line of so many bytes can be written to f.
func (f *File) ready(now time.Time, size int) error {
	if f.f == nil {
		return f.broken
	}
	if !f.due(now, size) {
		return nil
	}
	if now.Before(f.retry) {
		if f.suspect {
			return errSuspect
		}
		return nil
	}
	err := f.rotate(now)
	switch {
	case err == nil:
		return nil
	case f.suspect:
		f.retry = now.Add(retryEvery)
		return err
	case f.f == nil: // where it had to be closed first
		f.broken = err
		return err
	}
	f.retry = now.Add(time.Second) // the old file serves until then
	f.serve(err)
	return nil
}

// look compares what is open with what is at path, if that is due, and opens
// another file that is there.
func (f *File) look(now time.Time) {
	if since := now.Sub(f.looked); f.closed || since >= 0 && since < lookEvery {
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
	// A file without a name is lost, and its lines with it. One that was moved
	// serves until there is another.
	reason, lost := "moved", 0
	if info, err := f.f.Stat(); err != nil || names(info) == 0 {
		reason, lost = "removed", f.lines
	}
	err = f.open()
	switch {
	case err == nil:
		f.gaps.add(reason, lost)
	case reason == "removed":
		f.gaps.add(reason, lost)
		f.f.Close()
		f.f, f.broken = nil, err
	default:
		f.serve(err)
	}
}

// measure notices that somebody else wrote to the file or truncated it.
func (f *File) measure(size int64) {
	if size == f.size {
		return
	}
	shrunk := size < f.size
	f.size = size
	if lines, err := countLines(f.f); err == nil {
		if shrunk {
			f.gaps.add("truncated", max(f.lines-lines, 0))
		}
		f.lines = lines
	}
	f.heal()
}

var newline = []byte("\n")

// append writes one line and nothing else. Part of a line is taken back, or
// closed off before the next one.
func (f *File) append(line []byte) error {
	if f.torn {
		n, err := f.f.Write(newline)
		f.size += int64(n)
		if err != nil {
			return err
		}
		f.torn = false
	}
	n, err := f.f.Write(line)
	f.size += int64(n)
	switch {
	case err == nil && f.o.Sync:
		f.fresh++
	case err == nil:
		f.lines++
	default:
		f.suspect = !noSpace(err)
		f.takeBack(int64(n))
	}
	return err
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

// flush brings the fresh lines to the disk. Where fsync fails once, it is not
// asked again: a second call would succeed without having written anything.
func (f *File) flush() error {
	if f.fresh == 0 {
		return nil
	}
	err := f.f.Sync()
	if err != nil {
		f.suspect = true
		for reason, lines := range f.gaps.told {
			f.gaps.add(reason, lines)
		}
	} else {
		f.lines += f.fresh
	}
	f.fresh = 0
	clear(f.gaps.told)
	return err
}

// tellGaps writes a line for each gap.
func (f *File) tellGaps() {
	for reason, lines := range f.gaps.untold {
		if f.append(f.o.Gap(reason, lines)) != nil {
			return
		}
		delete(f.gaps.untold, reason)
		if f.o.Sync {
			f.gaps.told[reason] += lines
		}
	}
}

// Reopen opens what is at path now, or makes it.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	return f.open()
}

// Close closes the file. Later calls do nothing.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	var err error
	if f.f != nil {
		if !f.suspect {
			f.tellGaps()
		}
		err = errors.Join(f.flush(), f.f.Close())
		f.f = nil
	}
	close(f.stop)
	f.mu.Unlock()
	f.tidying.Wait()
	return errors.Join(err, f.lock.Close())
}

// countLines returns how many whole lines are in a file.
func countLines(file *os.File) (n int, err error) {
	buf := make([]byte, maxLine)
	for at := int64(0); ; {
		m, err := file.ReadAt(buf, at)
		n += bytes.Count(buf[:m], newline)
		if err == io.EOF {
			return n, nil
		}
		if at += int64(m); err != nil {
			return n, err
		}
	}
}
