package audit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit/internal/logfile"
)

// A Log records events: to a slog.Handler (New) or to a file (OpenFile). A nil *Log records to
// slog.Default(). Its methods are safe for concurrent use.
type Log struct {
	opts    FileOptions
	handler slog.Handler // of a log without a file; nil: slog.Default()'s
	file    *logfile.File
	floods

	written, failed, suppressed atomic.Uint64

	inHandler atomic.Int32 // calls of the handler that have not returned
	warning   sync.Mutex   // held during a warning
	warned    time.Time    // when the last warning started
}

// defaultLog is used for a nil *Log.
var defaultLog = New(nil)

// New returns a Log that hands its events to h: the event as the message and as the first
// attribute, "event", then the attributes. It redacts secrets, and suppresses refusals at the
// default rates of FileOptions. A value that is not plain arrives in the form of its JSON: a group
// for an object, []any for a list. Refusals have slog.LevelWarn, other events slog.LevelInfo.
//
// The log does not call h.Enabled: a level set for less noise must not drop sign-ins. A nil h means
// the handler of slog.Default(). Record waits for h; the async example shows one that doesn't wait.
func New(h slog.Handler) *Log {
	o, _ := (*FileOptions)(nil).withDefaults()
	return &Log{opts: o, handler: h}
}

// Record records one event with attrs as its fields. It never fails its caller: errors of a handler
// or disk are counted in Stats, and reported to slog.Default() as a warning, at most once a minute.
//
// If attributes have equal names, the first is written. Attributes called ts or event are ignored.
// The package comment describes values and secrets.
func (l *Log) Record(ctx context.Context, e Event, attrs ...slog.Attr) {
	l = cmp.Or(l, defaultLog)
	if l.handler == slog.DiscardHandler {
		l.written.Add(1)
		return
	}
	if e.refusal() && l.suppress(e, attrs) {
		l.suppressed.Add(1)
		return
	}
	_ = l.count(l.write(ctx, e, attrs, false))
}

// write writes an event to the file, or hands it to the handler.
func (l *Log) write(ctx context.Context, e Event, attrs []slog.Attr, redacted bool) error {
	now := time.Now()
	r := newRecord(now, e, attrs, redacted)
	defer r.free()
	if l.file != nil {
		return l.file.Write(now, r.buf)
	}
	level := slog.LevelInfo
	if e.refusal() {
		level = slog.LevelWarn
	}
	rec := slog.NewRecord(now, level, r.event, 0)
	rec.AddAttrs(slog.String("event", r.event))
	rec.AddAttrs(r.attrs...)
	return l.handle(ctx, rec)
}

// maxInHandler stops a handler that calls Record on its own log, before the stack overflows.
const maxInHandler = 10_000

func (l *Log) handle(ctx context.Context, rec slog.Record) (err error) {
	defer l.inHandler.Add(-1)
	if l.inHandler.Add(1) > maxInHandler {
		return fmt.Errorf("%d calls of the handler have not returned", maxInHandler)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	h := cmp.Or(l.handler, slog.Default().Handler())
	return h.Handle(cmp.Or(ctx, context.Background()), rec)
}

// Handler returns a slog.Handler that writes the records of another Log to l: the message is the
// event, the attributes are the fields. It does not suppress or redact, because the other Log has
// done so. Use it with slog.NewMultiHandler, to write to a file and to another handler:
//
//	log := audit.New(slog.NewMultiHandler(file.Handler(), metrics))
func (l *Log) Handler() slog.Handler {
	l = cmp.Or(l, defaultLog)
	return sink(func(ctx context.Context, e Event, attrs []slog.Attr) error {
		return l.count(l.write(ctx, e, attrs, true))
	})
}

// A sink is a function that serves as a slog.Handler.
type sink func(ctx context.Context, e Event, attrs []slog.Attr) error

func (s sink) Enabled(context.Context, slog.Level) bool { return true }

func (s sink) Handle(ctx context.Context, rec slog.Record) error {
	attrs := make([]slog.Attr, 0, rec.NumAttrs())
	for a := range rec.Attrs { // slices.AppendSeq allocates for it
		attrs = append(attrs, a)
	}
	return s(ctx, Event(rec.Message), attrs)
}

func (s sink) WithAttrs(first []slog.Attr) slog.Handler {
	return sink(func(ctx context.Context, e Event, attrs []slog.Attr) error {
		return s(ctx, e, slices.Concat(first, attrs))
	})
}

func (s sink) WithGroup(name string) slog.Handler {
	return sink(func(ctx context.Context, e Event, attrs []slog.Attr) error {
		return s(ctx, e, []slog.Attr{slog.GroupAttrs(name, attrs...)})
	})
}

// Stats counts the events recorded so far, by their result. Lines that the log adds itself, to
// report suppressed refusals and gaps, do not count.
type Stats struct {
	Written    uint64 // whole lines in the file, or records that a handler took without an error
	Failed     uint64 // not written, because of an error
	Suppressed uint64 // refusals above the rates of FileOptions
}

// Stats returns the counts of the log. They are exact while no call of Record is running.
func (l *Log) Stats() Stats {
	l = cmp.Or(l, defaultLog)
	return Stats{l.written.Load(), l.failed.Load(), l.suppressed.Load()}
}

// Close reports the suppressed refusals, and closes the file. After Close, Record on a log with a
// file fails, and on a log with a handler suppresses nothing. Later calls return the same error.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.report(true)
	if l.file == nil {
		return nil
	}
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("audit: close log: %w", err)
	}
	return nil
}

// count counts an event as written or, with an error, as failed.
func (l *Log) count(err error) error {
	if err == nil {
		l.written.Add(1)
	} else {
		l.failed.Add(1)
		l.warn("an event was not recorded", err)
	}
	return err
}

// warn logs a warning to slog.Default(), at most once a minute. That logger may call Record, panic
// or hang, so it runs in a goroutine, and warn waits at most 100 ms.
func (l *Log) warn(what string, err error) {
	if !l.warning.TryLock() {
		return
	}
	if time.Since(l.warned) < time.Minute {
		l.warning.Unlock()
		return
	}
	l.warned = time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer l.warning.Unlock()
		defer func() { _ = recover() }()
		slog.Default().LogAttrs(context.Background(), slog.LevelWarn, "audit: "+what,
			slog.String("error", redactText(err.Error())),
			slog.Uint64("failed", l.failed.Load()))
	}()
	select {
	case <-done:
	case <-time.After(100 * time.Millisecond):
	}
}
