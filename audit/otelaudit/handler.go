package otelaudit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ticketgate/ticketgate/audit"
)

// other is OpenTelemetry's name for a value outside of a fixed set.
const other = "_OTHER"

// Names of attributes.
const (
	keyEvent     = attribute.Key("ticketgate.event")
	keyReason    = attribute.Key("ticketgate.reason")
	keyCloseCode = attribute.Key("ticketgate.close_code")
	keyOutcome   = attribute.Key("ticketgate.outcome")
)

// reasons are those of ticketgate itself. Most come from strangers' requests, so what is not here
// must not become a series.
var reasons = []string{
	// ws_ticket_rejected
	"no_ticket", "two_tickets", "unknown", "used", "expired", "revoked", "endpoint", "session",
	"store",
	// ws_upgrade_refused, ws_mint_refused
	"not_upgrade", "method", "version", "key", "body", "query", "origin", "too_many",
	"upgrade_failed", "query_ticket", "not_hijackable", "going_away",
	// session_verify_failure
	"invalid_or_expired_session", "unavailable", "recheck",
	// ws_closed
	"session_revoked", "session_expired", "evicted", "closed", "dropped", "panic",
}

// closeCodes are ticketgate's and those that RFC 6455 section 7.4.1 and IANA name. 0 is a stream's.
// A peer may send any code from 1000 to 4999, and some libraries send it back.
var closeCodes = []int64{
	0, 1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015,
	4401, 4403, 4429,
}

// A series is what attributes are made of. An empty field is no attribute.
type series struct {
	event  audit.Event
	reason string
	code   string
}

// handler is safe for concurrent use.
type handler struct {
	reasons map[string]bool
	codes   map[int64]string

	minted, refusals, opened, closed, revocations, sessions metric.Int64Counter
	duration                                                metric.Float64Histogram

	mu      sync.RWMutex
	options map[series][]metric.AddOption // as many as there are series
}

func newHandler(own []string) *handler {
	h := &handler{
		reasons: make(map[string]bool),
		codes:   make(map[int64]string),
		options: make(map[series][]metric.AddOption),
	}
	for _, list := range [][]string{reasons, own} {
		for _, reason := range list {
			h.reasons[reason] = true
		}
	}
	for _, code := range closeCodes {
		h.codes[code] = strconv.FormatInt(code, 10)
	}
	return h
}

func (h *handler) instruments(meter metric.Meter) error {
	var errs []error
	for _, c := range []struct {
		counter                 *metric.Int64Counter
		name, unit, description string
	}{
		{&h.minted, "ticketgate.ticket.minted", "{ticket}", "Tickets minted."},
		{&h.refusals, "ticketgate.refusals", "{refusal}",
			"Requests refused, by audit event and reason."},
		{&h.opened, "ticketgate.socket.opened", "{socket}", "Sockets admitted and opened."},
		{&h.closed, "ticketgate.socket.closed", "{socket}",
			"Sockets closed, by close code and reason."},
		{&h.revocations, "ticketgate.revocations", "{revocation}",
			"Revocations that took effect on this node, once for each Sockets."},
		{&h.sessions, "ticketgate.session.events", "{event}",
			"Sign-ins begun and completed, refreshes and sign-outs."},
	} {
		var err error
		*c.counter, err = meter.Int64Counter(c.name,
			metric.WithUnit(c.unit), metric.WithDescription(c.description))
		errs = append(errs, err)
	}
	var err error
	h.duration, err = meter.Float64Histogram("ticketgate.socket.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Lifetimes of closed sockets."),
		metric.WithExplicitBucketBoundaries(1, 10, 60, 300, 900, 3600, 4*3600, 12*3600, 24*3600))
	return errors.Join(append(errs, err)...)
}

// Enabled returns true: a level must not hide events from a count.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs returns h: no attribute but a record's own is read.
func (h *handler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup returns h.
func (h *handler) WithGroup(string) slog.Handler { return h }

// Handle counts r. It returns no error.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	event := audit.Event(r.Message)
	switch event {
	case audit.TicketMinted:
		h.minted.Add(ctx, 1)
	case audit.SocketOpened:
		h.opened.Add(ctx, 1)
	case audit.SocketClosed:
		f := h.read(r)
		h.closed.Add(ctx, 1, h.attributes(series{reason: f.reason, code: f.code})...)
		h.duration.Record(ctx, f.seconds)
	case audit.Revoke:
		h.revocations.Add(ctx, 1)
	case audit.LoginFailure, audit.RefreshFailure, audit.SessionVerifyFailure,
		audit.TicketRejected, audit.UpgradeRefused, audit.MintRefused:
		f := h.read(r)
		h.refusals.Add(ctx, f.count, h.attributes(series{event: event, reason: f.reason})...)
	case audit.LoginStart, audit.LoginSuccess, audit.RefreshSuccess, audit.Logout:
		h.sessions.Add(ctx, 1, h.attributes(series{event: event})...)
	}
	return nil
}

// fields are what Handle needs of a record's attributes.
type fields struct {
	reason, code string // within their sets
	seconds      float64
	count        int64
}

func (h *handler) read(r slog.Record) fields {
	f := fields{count: 1}
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "reason":
			f.reason = h.reason(a.Value)
		case "close_code":
			f.code = other
			if code, ok := h.codes[int64(number(a.Value))]; ok {
				f.code = code
			}
		case "seconds":
			f.seconds = number(a.Value)
		case "suppressed":
			f.count = int64(number(a.Value))
		}
		return true
	})
	return f
}

func (h *handler) reason(v slog.Value) string {
	if v.Kind() != slog.KindString {
		return other
	}
	if reason := v.String(); reason == "" || h.reasons[reason] {
		return reason
	}
	return other
}

// number returns the number in v, or 0 where there is none that can be counted. Any kind will do:
// a log may encode a record and decode it again.
func number(v slog.Value) float64 {
	n := 0.0
	switch v.Kind() {
	case slog.KindInt64:
		n = float64(v.Int64())
	case slog.KindUint64:
		n = float64(v.Uint64())
	case slog.KindFloat64:
		n = v.Float64()
	}
	if n >= 0 && n < 1<<53 { // not NaN, and exact as an integer
		return n
	}
	return 0
}

// attributes returns the attributes of s. They are made once: a set is hashed when it is made.
func (h *handler) attributes(s series) []metric.AddOption {
	h.mu.RLock()
	options, ok := h.options[s]
	h.mu.RUnlock()
	if ok {
		return options
	}
	var kvs []attribute.KeyValue
	if s.event != "" {
		kvs = append(kvs, keyEvent.String(string(s.event)))
	}
	if s.reason != "" {
		kvs = append(kvs, keyReason.String(s.reason))
	}
	if s.code != "" {
		kvs = append(kvs, keyCloseCode.String(s.code))
	}
	options = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(kvs...))}
	h.mu.Lock()
	h.options[s] = options
	h.mu.Unlock()
	return options
}
