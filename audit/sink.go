package audit

import (
	"context"
	"log/slog"
	"slices"
)

// Handler returns a slog.Handler that records to l: a record's message is the
// event, its attributes are the fields, its level and time are not looked at.
// It is for handing events to several places, of which l's file is one, with
// slog.NewMultiHandler.
func (l *Log) Handler() slog.Handler { return sink{log: l} }

type sink struct {
	log    *Log
	scopes []scope
}

// A scope is attributes that come first, within a group that has begun.
type scope struct {
	group string
	attrs []slog.Attr
}

func (s sink) Enabled(context.Context, slog.Level) bool { return true }

func (s sink) Handle(ctx context.Context, r slog.Record) error {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for _, sc := range slices.Backward(s.scopes) {
		attrs = append(slices.Clip(sc.attrs), attrs...)
		if sc.group != "" {
			attrs = []slog.Attr{{Key: sc.group, Value: slog.GroupValue(attrs...)}}
		}
	}
	s.log.Record(ctx, Event(r.Message), attrs...)
	return nil
}

func (s sink) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sink{s.log, append(slices.Clip(s.scopes), scope{attrs: attrs})}
}

func (s sink) WithGroup(name string) slog.Handler {
	if name == "" {
		return s
	}
	return sink{s.log, append(slices.Clip(s.scopes), scope{group: name})}
}
