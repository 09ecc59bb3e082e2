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

// A Log records events. New makes one of a slog.Handler, OpenFile one of a file. A nil *Log records
// to slog.Default(). The methods may be called concurrently.
type Log struct {
	opts    FileOptions
	handler slog.Handler // of a log without a file; nil: slog.Default()'s
	file    *logfile.File
	floods

	written, failed, suppressed atomic.Uint64

	inside  atomic.Int32 // calls of the handler that have not returned
	warning sync.Mutex   // held while a warning is under way
	warned  time.Time    // when the last one began
}

// byDefault is what a nil *Log stands for.
var byDefault = New(nil)

// New returns a Log that hands its events to h: the event as the message and as the first
// attribute, "event", then the attributes. Refusals are suppressed at FileOptions' default rates,
// and secrets redacted, as they are for a file. What is not a plain value arrives as its JSON would
// be: groups for objects, []any for lists. Refusals have slog.LevelWarn, all others slog.LevelInfo.
//
// h.Enabled is not called: a level that is set against chatter must not make sign-ins vanish. A nil
// h is slog.Default()'s. Record waits for h: the example's doesn't wait, and may lose events.
func New(h slog.Handler) *Log {
	o, _ := (*FileOptions)(nil).withDefaults()
	return &Log{opts: o, handler: h}
}

// Record records one event with attrs as its fields. It never fails its caller: what goes wrong in
// a handler, on a disk or in a value's methods is counted, and reported to slog.Default() as a
// warning, at most once a minute.
//
// Of attributes with equal names, the first stays; ts and event are the log's own. The package
// comment says what becomes of values and secrets.
func (l *Log) Record(ctx context.Context, e Event, attrs ...slog.Attr) {
	l = cmp.Or(l, byDefault)
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

// write writes an event to the file or hands it to the handler. raw: another Log has redacted it.
func (l *Log) write(ctx context.Context, e Event, attrs []slog.Attr, raw bool) error {
	now := time.Now()
	r := newRecord(now, e, attrs, raw)
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

// maxInside ends a handler that records events through this log without end, before the stack does.
const maxInside = 10_000

func (l *Log) handle(ctx context.Context, rec slog.Record) (err error) {
	defer l.inside.Add(-1)
	if l.inside.Add(1) > maxInside {
		return fmt.Errorf("%d calls of the handler have not returned", maxInside)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	h := cmp.Or(l.handler, slog.Default().Handler())
	return h.Handle(cmp.Or(ctx, context.Background()), rec)
}

// Handler returns a slog.Handler that writes to l what another Log hands to it: a record's message
// is the event, its attributes are the fields. It neither suppresses nor redacts, because that Log
// has done so. Use it with slog.NewMultiHandler, to write to a file and somewhere else:
//
//	log := audit.New(slog.NewMultiHandler(file.Handler(), metrics))
func (l *Log) Handler() slog.Handler {
	l = cmp.Or(l, byDefault)
	return sink(func(ctx context.Context, e Event, attrs []slog.Attr) error {
		return l.count(l.write(ctx, e, attrs, true))
	})
}

// A sink is a slog.Handler that is one function.
type sink func(ctx context.Context, e Event, attrs []slog.Attr) error

func (s sink) Enabled(context.Context, slog.Level) bool { return true }

func (s sink) Handle(ctx context.Context, rec slog.Record) error {
	attrs := slices.AppendSeq(make([]slog.Attr, 0, rec.NumAttrs()), rec.Attrs)
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

// Stats is what became of the events recorded so far: their sum is how many there were. Lines that
// the log writes on its own account do not count.
type Stats struct {
	Written    uint64 // whole lines in the file, or records that a handler took without an error
	Failed     uint64 // not written, because of an error
	Suppressed uint64 // refusals beyond the rates that FileOptions sets
}

// Stats returns the log's counts. They are exact once no Record is under way.
func (l *Log) Stats() Stats {
	l = cmp.Or(l, byDefault)
	return Stats{l.written.Load(), l.failed.Load(), l.suppressed.Load()}
}

// Close reports what was suppressed, and closes the file. Events that are recorded to a file later
// fail; for a handler, no refusal is suppressed any more. Later calls return the same.
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

// count counts an event that was written or, with an error, was not.
func (l *Log) count(err error) error {
	if err == nil {
		l.written.Add(1)
	} else {
		l.failed.Add(1)
		l.warn("an event was not recorded", err)
	}
	return err
}

// warn reports to slog.Default() what went wrong, if nothing was reported within the minute. That
// may lead back here, may panic and may hang: warn waits for no more than a moment.
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
