package audit

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// floods counts the refusals of each minute, and decides which of them are not
// written. A minute begins with its first refusal.
type floods struct {
	each, all int // refusals that are written in a minute

	reporting sync.Mutex // held during a report, for which Close waits

	mu     sync.Mutex
	kinds  map[kind]*tally
	passed int         // of all kinds
	minute *time.Timer // nil: none has begun
	closed bool
}

// A kind is all refusals of one event, reason and address.
type kind struct {
	event        Event
	reason, addr string
}

type tally struct {
	passed     int
	suppressed uint64
}

// maxKinds bounds the kinds with an address, and then those with a reason.
// Those without either are as many as there are events that are refusals.
const maxKinds = 256

func newFloods(o FileOptions) floods {
	return floods{each: o.RepeatsPerMinute, all: o.RefusalsPerMinute, kinds: map[kind]*tally{}}
}

// suppress reports whether a refusal is one too many, and counts it. A log that
// is closed suppresses nothing: no report would tell of it.
func (l *Log) suppress(e Event, attrs []slog.Attr) bool {
	k := kind{event: e}
	for _, a := range attrs {
		switch {
		case a.Value.Kind() != slog.KindString:
		case a.Key == "reason":
			k.reason = short(a.Value.String())
		case a.Key == "ip":
			k.addr = network(short(a.Value.String()))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	t, shared := l.tally(k)
	if (shared || t.passed < l.each) && l.passed < l.all {
		t.passed++
		l.passed++
		return false
	}
	t.suppressed++
	return true
}

// short returns what a kind keeps of s.
func short(s string) string { return s[:min(len(s), 128)] }

// network returns the address that addr counts as: one customer has a whole /64
// of IPv6 (RFC 6177).
func network(addr string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return addr
	}
	if ip = ip.Unmap(); ip.Is4() {
		return ip.String()
	}
	prefix, _ := ip.Prefix(64)
	return prefix.String()
}

// tally returns the tally of a kind. Kinds that there is no room for share one
// without their address, then without their reason.
func (l *Log) tally(k kind) (t *tally, shared bool) {
	if l.minute == nil && !l.closed {
		l.minute = time.AfterFunc(time.Minute, l.endMinute)
	}
	if l.kinds[k] == nil && len(l.kinds) >= maxKinds {
		k.addr, shared = "", true
	}
	if l.kinds[k] == nil && len(l.kinds) >= 2*maxKinds {
		k.reason = ""
	}
	if l.kinds[k] == nil {
		k.reason, k.addr = strings.Clone(k.reason), strings.Clone(k.addr) // of longer texts
		l.kinds[k] = &tally{}
	}
	return l.kinds[k], shared
}

// endMinute reports what was suppressed in the minute. What can't be reported
// counts as suppressed in the next one.
func (l *Log) endMinute() {
	l.reporting.Lock()
	defer l.reporting.Unlock()
	l.mu.Lock()
	kinds := l.kinds
	l.kinds, l.passed, l.minute = map[kind]*tally{}, 0, nil
	l.mu.Unlock()
	for k, t := range kinds {
		if t.suppressed == 0 {
			continue
		}
		attrs := []slog.Attr{slog.String("reason", k.reason)}
		if k.addr != "" {
			attrs = append(attrs, slog.String("ip", k.addr))
		}
		attrs = append(attrs, slog.Uint64("suppressed", t.suppressed))
		if l.write(context.Background(), k.event, attrs, false) != nil {
			l.mu.Lock()
			again, _ := l.tally(k)
			again.suppressed += t.suppressed
			l.mu.Unlock()
		}
	}
}

// endFloods reports once more, and never again.
func (l *Log) endFloods() {
	l.mu.Lock()
	l.closed = true
	if l.minute != nil {
		l.minute.Stop()
	}
	l.mu.Unlock()
	l.endMinute()
}
