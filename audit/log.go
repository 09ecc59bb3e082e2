package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit/internal/logfile"
)

// A Log records events. New makes one of any slog.Handler, OpenFile one of a
// file. The zero value is not usable, but a nil *Log is: it records to
// slog.Default(). All methods may be called at the same time.
type Log struct {
	handler slog.Handler // of a log without a file; nil: slog.Default()'s
	file    *logfile.File
	floods  *floods
	spare   atomic.Pointer[encoder] // of whoever recorded last

	closing  sync.Once
	closeErr error

	written, failed, suppressed atomic.Uint64

	inside  atomic.Int32 // calls of the handler that have not returned
	warning atomic.Bool  // a warning is being given
	warned  atomic.Int64 // when the last one was, Unix nanoseconds
}

// byDefault is what a nil *Log stands for.
var byDefault Log

// New returns a Log that hands its events to h: the event as the message and
// as the first attribute, "event", then the attributes, redacted. What is not
// a plain value arrives as what its JSON would hold: groups for objects, []any
// for lists. Refusals have slog.LevelWarn, all others slog.LevelInfo.
//
// h.Enabled is not asked. A level that somebody sets against chatter must not
// make sign-ins vanish; a handler that wants to choose can do so in Handle, as
// slog.NewMultiHandler's does for each of its parts. Only slog.DiscardHandler
// is taken at its word. A nil h stands for slog.Default().
func New(h slog.Handler) *Log {
	return &Log{handler: h}
}

// Record writes one event with attrs as its fields. It never fails its caller:
// whatever goes wrong, in a handler, on a disk or in a value's own methods, is
// counted, and told to slog.Default() as a warning, at most once a minute.
//
// Attributes that are secrets by their name, and further ones of a name that
// was there, are left out; ts and event are not for a caller to set. A value
// that can't be encoded, or has a method that panics, becomes "!ERROR".
func (l *Log) Record(ctx context.Context, e Event, attrs ...slog.Attr) {
	switch {
	case l == nil:
		byDefault.hand(ctx, slog.Default().Handler(), e, attrs)
	case l.file != nil:
		l.write(e, attrs)
	case l.handler == nil:
		l.hand(ctx, slog.Default().Handler(), e, attrs)
	case l.handler == slog.DiscardHandler:
		l.written.Add(1)
	default:
		l.hand(ctx, l.handler, e, attrs)
	}
}

// Enabled reports whether anybody receives what is recorded: it is false over
// slog.DiscardHandler only. Whoever has to compute attributes may ask, and then
// record without them: the event still counts.
func (l *Log) Enabled() bool {
	return l == nil || l.file != nil || l.handler != slog.DiscardHandler
}

// Stats is what became of the events recorded so far: their sum is how many
// there were. Lines that the log writes on its own account are not among them.
type Stats struct {
	Written    uint64 // whole lines in the file, or records that a handler took without an error
	Failed     uint64 // not written, because of an error
	Suppressed uint64 // refusals beyond the rates that FileOptions sets
}

// Stats returns the log's counts. They are exact once no Record is under way.
func (l *Log) Stats() Stats {
	if l == nil {
		l = &byDefault
	}
	return Stats{l.written.Load(), l.failed.Load(), l.suppressed.Load()}
}

// Close reports what was suppressed, and closes the file. What is recorded
// later is lost, and counted as failed. A log without a file has nothing to
// close. Later calls return the same.
func (l *Log) Close() error {
	if l == nil || l.file == nil {
		return nil
	}
	l.closing.Do(func() {
		l.floods.close()
		if err := l.file.Close(); err != nil {
			l.closeErr = fmt.Errorf("audit: close log: %w", err)
		}
	})
	return l.closeErr
}

// write is Record for a log that has a file.
func (l *Log) write(e Event, attrs []slog.Attr) {
	now := time.Now()
	if e.refusal() && l.floods.suppress(now, e, attrs) {
		l.suppressed.Add(1)
		return
	}
	enc := l.spare.Swap(nil) // which costs less than the pool
	if enc == nil {
		enc = encoders.Get().(*encoder)
	}
	line := enc.line(now, e, attrs)
	err := l.file.Write(now, line)
	if cap(enc.buf) > 2*hardLine || !l.spare.CompareAndSwap(nil, enc) {
		enc.free()
	}
	if err != nil {
		l.fail(1, err)
		return
	}
	l.written.Add(1)
}

// summary writes a line of the log's own.
func (l *Log) summary(e Event, attrs ...slog.Attr) error {
	enc := encoders.Get().(*encoder)
	defer enc.free()
	now := time.Now()
	return l.file.Write(now, enc.line(now, e, attrs))
}

// maxInside ends a handler that records events of its own, through this log
// and without end, before the stack does.
const maxInside = 10_000

// hand is Record for a log that has a handler.
func (l *Log) hand(ctx context.Context, h slog.Handler, e Event, attrs []slog.Attr) {
	if l.inside.Add(1) > maxInside {
		l.inside.Add(-1)
		l.fail(1, fmt.Errorf("%d calls of the handler have not returned", maxInside))
		return
	}
	defer func() {
		l.inside.Add(-1)
		if p := recover(); p != nil {
			l.fail(1, fmt.Errorf("the handler panicked: %v", p))
		}
	}()
	if ctx == nil {
		ctx = context.Background()
	}
	enc := encoders.Get().(*encoder)
	r := enc.slogRecord(time.Now(), e, attrs)
	enc.free()
	if err := h.Handle(ctx, r); err != nil {
		l.fail(1, err)
		return
	}
	l.written.Add(1)
}

// fail counts events that were not written, and warns.
func (l *Log) fail(n int, err error) {
	l.failed.Add(uint64(n))
	l.warn("an event was not recorded", err)
}

// warn tells slog.Default() what went wrong, if it was told nothing within
// the minute. It may lead back here, may panic and may hang: the mark is set
// before it is called, and it is not waited for longer than a moment.
func (l *Log) warn(what string, err error) {
	now := time.Now().UnixNano()
	last := l.warned.Load()
	if age := now - last; last != 0 && age >= 0 && age < int64(time.Minute) || !l.warned.CompareAndSwap(last, now) {
		return
	}
	if !l.warning.CompareAndSwap(false, true) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer func() {
			_ = recover()
			l.warning.Store(false)
			close(done)
		}()
		slog.Default().LogAttrs(context.Background(), slog.LevelWarn, "audit: "+what,
			slog.String("error", mask(err.Error())), slog.Uint64("failed", l.failed.Load()))
	}()
	moment := time.NewTimer(100 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-done:
	case <-moment.C:
	}
}
