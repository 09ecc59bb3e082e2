package testserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	remembered = 200              // lines that a page which comes back is given again
	behind     = 256              // lines that a reader may be late
	heartbeat  = 15 * time.Second // of a stream in which nothing happens
	writeLimit = 10 * time.Second // for a reader that takes nothing
)

// line is one line of the audit, without its end.
type line struct {
	id   string
	json []byte
}

// feed hands each audit line to its listeners. It never waits: a reader who
// is too far behind is dropped, and comes back for what it has missed.
type feed struct {
	run string // tells the ids of this process from an earlier one's

	mu      sync.Mutex
	n       int // lines so far
	recent  []line
	readers map[chan line]struct{}
}

func newFeed() *feed {
	return &feed{run: rand.Text()[:8], readers: make(map[chan line]struct{})}
}

// handler writes a record as the audit file would.
func (f *feed) handler() slog.Handler {
	return slog.NewJSONHandler(f, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				const layout = "2006-01-02T15:04:05.000000+00:00"
				return slog.String("ts", a.Value.Time().UTC().Format(layout))
			case slog.LevelKey, slog.MessageKey:
				return slog.Attr{} // the event is an attribute already
			}
			return a
		},
	})
}

// Write takes one line: slog's handlers write each record at once.
func (f *feed) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	l := line{id: f.run + "-" + strconv.Itoa(f.n), json: bytes.TrimRight(bytes.Clone(p), "\n")}
	f.recent = append(f.recent, l)
	if len(f.recent) > remembered {
		f.recent = slices.Delete(f.recent, 0, 1)
	}
	for reader := range f.readers {
		select {
		case reader <- l:
		default:
			delete(f.readers, reader)
			close(reader)
		}
	}
	return len(p), nil
}

// subscribe returns what is remembered after the line called after, and the
// lines to come. The channel is closed when its reader is dropped.
func (f *feed) subscribe(after string) (missed []line, lines <-chan line, stop func()) {
	reader := make(chan line, behind)
	f.mu.Lock()
	defer f.mu.Unlock()
	missed = f.since(after)
	f.readers[reader] = struct{}{}
	return missed, reader, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.readers, reader)
	}
}

// since returns all that is remembered where the line is not: it is too old, of
// an earlier process, or none.
func (f *feed) since(id string) []line {
	i := slices.IndexFunc(f.recent, func(l line) bool { return l.id == id })
	return slices.Clone(f.recent[i+1:])
}

// events is the audit as an EventSource reads it. A ticket opens it, and is used
// up by that, so a page that comes back mints another; it says ?after=<the last
// id it saw> and has missed nothing.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	missed, lines, stop := s.lines.subscribe(r.URL.Query().Get("after"))
	defer stop()

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.ProtoMajor == 1 {
		// Without chunks the end of the connection is the end of the stream, and a
		// session that ends is no network error to the page.
		h.Set("Transfer-Encoding", "identity")
	}

	out := &stream{w: w, rc: http.NewResponseController(w), r: r}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	if out.send("event: beat\ndata:\n\n") != nil {
		return
	}
	for _, l := range missed {
		if out.line(l) != nil {
			return
		}
	}
	for {
		var err error
		select {
		case l, ok := <-lines:
			if !ok {
				return
			}
			err = out.line(l)
		case <-beat.C:
			err = out.send("event: beat\ndata:\n\n")
		case <-r.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// stream writes server-sent events, each within a limit of time.
type stream struct {
	w  io.Writer
	rc *http.ResponseController
	r  *http.Request
}

func (s *stream) line(l line) error {
	return s.send(fmt.Sprintf("id: %s\ndata: %s\n\n", l.id, l.json))
}

func (s *stream) send(event string) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	// The guard ends a stream by its context and then by a deadline in the past,
	// which the line above may just have undone.
	if err := context.Cause(s.r.Context()); err != nil {
		return err
	}
	if _, err := io.WriteString(s.w, event); err != nil {
		return err
	}
	return s.rc.Flush()
}
