package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"
)

// A Record is one line of a log.
type Record struct {
	Time   time.Time
	Event  Event
	Fields map[string]any // the others, as encoding/json has them, but numbers as json.Number
	Line   []byte         // the line as it stands, without its newline

	// Skipped is how many lines before this one were no records: what a crash
	// left of them, most often. It counts from where reading began.
	Skipped int
}

// Read returns the records of a log, in order. What is no record is skipped,
// and counted in the Skipped of those that follow. So is a last line that has
// no newline, but that is not counted: it may be being written. The only
// errors are r's, and end the sequence.
func Read(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		lines := lineReader{r: bufio.NewReaderSize(r, hardLine)}
		for {
			rec, err := lines.next()
			if err == io.EOF {
				return
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

var errNoRecord = errors.New("audit: not a record")

// parse reads one line.
func parse(line []byte) (Record, error) {
	rec := Record{Line: line}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if d.Decode(&rec.Fields) != nil || d.InputOffset() != int64(len(line)) {
		return Record{}, errNoRecord
	}
	ts, _ := rec.Fields["ts"].(string)
	event, ok := rec.Fields["event"].(string)
	at, err := time.Parse(time.RFC3339Nano, ts)
	if err != nil || !ok {
		return Record{}, errNoRecord
	}
	rec.Time, rec.Event = at, Event(event)
	delete(rec.Fields, "ts")
	delete(rec.Fields, "event")
	return rec, nil
}

// A lineReader reads records. After io.EOF it goes on where it stopped.
type lineReader struct {
	r       *bufio.Reader
	part    []byte // of a line whose end is not there yet
	tooLong bool
	skipped int
}

func (l *lineReader) next() (Record, error) {
	for {
		piece, err := l.r.ReadSlice('\n')
		if len(l.part)+len(piece) > 2*hardLine { // none of ours
			l.part, l.tooLong = l.part[:0], true
		}
		if !l.tooLong {
			l.part = append(l.part, piece...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return Record{}, err
		}
		line := bytes.TrimSuffix(l.part, []byte("\n"))
		l.part = nil
		rec, err := parse(line)
		if err == nil && !l.tooLong {
			rec.Skipped = l.skipped
			return rec, nil
		}
		if len(line) > 0 || l.tooLong {
			l.skipped++
		}
		l.tooLong = false
	}
}

// followEvery is how often a file is looked at for more.
const followEvery = 100 * time.Millisecond

// Follow returns the records that are written to the log at path from now on,
// as they come: from the call, that is, not from when the sequence is ranged
// over, which can be done once. It goes with the log from file to file, and
// waits for one that is not there yet. It ends when ctx does, or after an
// error other than that.
func Follow(ctx context.Context, path string) iter.Seq2[Record, error] {
	f, err := os.Open(path)
	if err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return func(yield func(Record, error) bool) {
		if err != nil {
			yield(Record{}, err)
			return
		}
		w := follower{path: path}
		defer w.close()
		w.open(f)
		for ctx.Err() == nil {
			rec, err := w.next()
			if err == nil || err != io.EOF {
				if !yield(rec, err) || err != nil {
					return
				}
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(followEvery):
			}
		}
	}
}

// A follower reads a log from file to file.
type follower struct {
	path  string
	f     *os.File
	lines lineReader
}

func (w *follower) open(f *os.File) {
	w.close()
	w.f = f
	if len(w.lines.part) > 0 { // its end never came
		w.lines.skipped++
	}
	w.lines = lineReader{skipped: w.lines.skipped}
	if f != nil {
		w.lines.r = bufio.NewReaderSize(f, hardLine)
	}
}

func (w *follower) close() {
	if w.f != nil {
		w.f.Close()
	}
}

// next returns the next record, or io.EOF if there is none yet.
func (w *follower) next() (Record, error) {
	if w.f != nil {
		if rec, err := w.lines.next(); err != io.EOF {
			return rec, err
		}
	}
	path, err := w.successor()
	if err != nil || path == "" {
		return Record{}, err
	}
	if w.f != nil { // what was written before it was put away
		if rec, err := w.lines.next(); err != io.EOF {
			return rec, err
		}
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, io.EOF
	}
	if err != nil {
		return Record{}, err
	}
	w.open(f)
	return w.lines.next()
}

// successor returns the file that comes after the one at hand, which is at
// its end; io.EOF if that is still being written to.
func (w *follower) successor() (string, error) {
	if w.f == nil {
		return w.path, nil
	}
	mine, err := w.f.Stat()
	if err != nil {
		return "", err
	}
	now, err := os.Stat(w.path)
	if err != nil {
		return "", io.EOF
	}
	if os.SameFile(mine, now) {
		if at, err := w.f.Seek(0, io.SeekCurrent); err == nil && at > mine.Size() { // it was cut short
			return w.path, nil
		}
		return "", io.EOF
	}
	old, err := oldFiles(w.path)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(old, func(o oldFile) bool {
		info, err := os.Stat(o.path)
		return err == nil && os.SameFile(info, mine)
	})
	if i >= 0 && i+1 < len(old) && old[i+1].plain {
		return old[i+1].path, nil
	}
	return w.path, nil
}
