package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lookEvery  = 250 * time.Millisecond // how often path is compared with what is open
	retryEvery = 10 * time.Second       // how often a file that failed is replaced
)

// A file is where lines go, one after another, and old files beside it.
type file struct {
	path string
	o    FileOptions
	warn func(what string, err error)

	mu     sync.Mutex
	closed bool
	lock   *os.File
	f      *os.File // nil: there is none, and opening one is tried at each look
	fd     uintptr  // f's
	broken error    // why f is nil
	id     os.FileInfo
	size   int64     // of f, as far as is known
	born   time.Time // when f was begun
	seq    uint64    // the highest number that an old file has

	looked  time.Time // when f was last known to be what is at path
	lines   int       // in f, as far as they are known to be there
	torn    bool      // f ends in part of a line
	suspect bool      // the disk failed on f: no more is written to it
	retry   time.Time // no rotation is tried before this
	gaps    gaps

	complaint error // to be made when the lock is free

	tidying sync.WaitGroup
	untidy  atomic.Int32  // rotations since the old files were last gone through
	stop    chan struct{} // closed: tidying is to end
}

// gaps is what is to be told in the next lines.
type gaps struct {
	any   bool
	lines map[string]int // by reason; of no lines too
}

func (g *gaps) add(reason string, lines int) {
	if g.lines == nil {
		g.lines = map[string]int{}
	}
	g.lines[reason] += lines
	g.any = true
}

func openFile(path string, o FileOptions, warn func(string, error)) (*file, error) {
	f := &file{path: path, o: o, warn: warn, stop: make(chan struct{})}
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

// write writes n lines, at the time now, and returns how many of them are
// there for good: fewer than n only with an error.
func (f *file) write(now time.Time, lines []byte, n int) (written int, err error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return 0, errClosed
	}
	for written < n && err == nil {
		part, m := f.fit(lines, n-written)
		if err = f.ready(now, len(part)); err != nil {
			break
		}
		if f.size == 0 { // a new file has room for more
			part, m = f.fit(lines, n-written)
		}
		if f.gaps.any {
			f.tell(now)
		}
		if m, err = f.append(part, m); err == nil && f.o.Sync {
			if err = dataSync(f.f); err != nil {
				m, f.suspect = 0, true
			}
		}
		written += m
		f.lines += m
		lines = lines[len(part):]
	}
	if err != nil {
		f.gaps.add("failed", n-written)
	}
	complaint := f.complaint
	f.complaint = nil
	f.mu.Unlock()
	if complaint != nil { // whoever hears it may record events
		f.warn("the file could not be renewed, and is written to further", complaint)
	}
	return written, err
}

var newline = []byte("\n")

// fit returns those of the n lines that there is room for in the file, or the
// first one, which begins another.
func (f *file) fit(lines []byte, n int) ([]byte, int) {
	room := max(f.o.MaxSize-f.size, 0)
	if n == 1 || int64(len(lines)) <= room {
		return lines, n
	}
	end := bytes.LastIndexByte(lines[:room], '\n') + 1
	if end == 0 {
		end = bytes.IndexByte(lines, '\n') + 1
	}
	return lines[:end], bytes.Count(lines[:end], newline)
}

// ready sees to it that there is a file to which size bytes can be written.
func (f *file) ready(now time.Time, size int) error {
	if since := now.Sub(f.looked); since < 0 || since >= lookEvery {
		f.look(now)
	}
	if f.f == nil {
		return f.broken
	}
	due := f.suspect || f.size > 0 && (f.size+int64(size) > f.o.MaxSize ||
		f.o.MaxAge > 0 && now.Round(0).Sub(f.born) >= f.o.MaxAge)
	if !due {
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
	}
	if f.f == nil { // where it had to be closed for that
		f.broken = err
		return err
	}
	f.retry = now.Add(time.Second) // the old one goes on
	f.complaint = err
	return nil
}

var errSuspect = errors.New("the disk failed lately")

// look compares what is open with what is at path, and opens that if it is
// another file.
func (f *file) look(now time.Time) {
	f.looked = now
	if f.f == nil {
		f.broken = f.open()
		return
	}
	info, err := os.Lstat(f.path)
	if err == nil && os.SameFile(info, f.id) {
		if size := info.Size(); size != f.size {
			shrunk, before := size < f.size, f.lines
			f.size = size
			f.lines = countLines(f.f)
			if shrunk {
				f.gaps.add("truncated", max(before-f.lines, 0))
			}
			f.heal()
		}
		return
	}
	// Where the file has no name left, what is written to it is lost; where
	// it was only moved, it goes on to serve until there is another.
	reason, lost := "moved", 0
	if unlinked(f.f) {
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
		f.complaint = err
	}
}

// append writes n lines and nothing else. Part of a line is taken back, or
// marked to be closed off before the next one.
func (f *file) append(lines []byte, n int) (int, error) {
	if f.torn {
		m, err := writeTo(f.f, f.fd, newline)
		f.size += int64(m)
		if err != nil {
			return 0, err
		}
		f.torn = false
	}
	m, err := writeTo(f.f, f.fd, lines)
	f.size += int64(m)
	if err == nil {
		return n, nil
	}
	f.suspect = !noSpace(err)
	whole := bytes.LastIndexByte(lines[:m], '\n') + 1
	if part := int64(m - whole); part > 0 {
		info, statErr := f.f.Stat()
		if statErr != nil || info.Size() != f.size || f.f.Truncate(f.size-part) != nil {
			f.torn = true
		} else {
			f.size -= part
		}
	}
	return bytes.Count(lines[:whole], newline), err
}

// tell writes a line for each gap.
func (f *file) tell(now time.Time) {
	for _, reason := range gapReasons {
		lines, ok := f.gaps.lines[reason]
		if !ok {
			continue
		}
		if f.notice(now, gapEvent, slog.String("reason", reason), slog.Int("lines", lines)) != nil {
			return
		}
		delete(f.gaps.lines, reason)
	}
	f.gaps.any = false
}

const gapEvent Event = "audit_gap"

var gapReasons = []string{"removed", "moved", "truncated", "torn", "failed", "dropped"}

func (f *file) notice(now time.Time, e Event, attrs ...slog.Attr) error {
	enc := encoders.Get().(*encoder)
	defer enc.free()
	n, err := f.append(enc.line(now, e, attrs), 1)
	f.lines += n
	return err
}

// rotate makes an old file of f and begins a new one. The new one is there
// before the old one loses its name, and there is a file at path at all times.
// A file without lines is replaced: a disk that goes on failing must not fill
// the places of the old files with it.
func (f *file) rotate(now time.Time) error {
	next, err := f.putAway(now, f.lines > 0)
	if err != nil {
		return err
	}
	info, err := private(next)
	if err != nil {
		next.Close()
		return err
	}
	failed := f.suspect
	f.f.Close()
	f.f, f.fd, f.id, f.size, f.born = next, next.Fd(), info, 0, now.Round(0)
	f.lines, f.torn, f.suspect, f.retry = 0, false, false, time.Time{}
	if f.o.Sync {
		err = syncDir(filepath.Dir(f.path))
	}
	if failed { // no file is removed for one that a failing disk cut short
		f.retry = now.Add(retryEvery)
		return err
	}
	f.startTidying()
	return err
}

func (f *file) reopenNow() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errClosed
	}
	return f.open()
}

// drop adds lines that never got here to what is to be told.
func (f *file) drop(lines int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gaps.add("dropped", lines)
}

func (f *file) close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	if f.gaps.any && f.f != nil && !f.suspect {
		f.tell(time.Now())
	}
	var err error
	if f.f != nil {
		if f.o.Sync {
			err = dataSync(f.f)
		}
		err = errors.Join(err, f.f.Close())
		f.f = nil
	}
	close(f.stop)
	f.mu.Unlock()
	f.tidying.Wait()
	return errors.Join(err, f.lock.Close())
}
