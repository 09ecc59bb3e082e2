package audit

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// floods counts the refusals of each minute, which begins with its first one.
type floods struct {
	reporting sync.Mutex // held during a report: Close waits, and then reports what it left

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

// maxKinds bounds the kinds with an address, and those with a reason beside them.
const maxKinds = 256

const maxKindText = 128 // bytes of a kind's reason and address

// suppress counts a refusal, and reports whether it is one too many. After Close none is, because
// no report would follow.
func (l *Log) suppress(e Event, attrs []slog.Attr) bool {
	k := kind{event: e}
	for _, a := range attrs {
		if a.Value.Kind() != slog.KindString {
			continue
		}
		text := a.Value.String()
		if len(text) > maxKindText {
			text = redactStart(text[:maxKindText])
		}
		switch a.Key {
		case "reason":
			k.reason = text
		case "ip":
			k.addr = network(text)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	t, shared := l.tally(k)
	if (shared || t.passed < l.opts.RepeatsPerMinute) && l.passed < l.opts.RefusalsPerMinute {
		t.passed++
		l.passed++
		return false
	}
	t.suppressed++
	return true
}

// network returns the address that addr counts as: one customer has a whole /64 of IPv6 (RFC 6177).
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

// tally returns the tally of a kind. Those that came once make room for it, so that many addresses
// don't hide one that comes again and again. Kinds that there is still no room for share a tally
// without their address, then without their reason.
func (l *Log) tally(k kind) (t *tally, shared bool) {
	if l.minute == nil {
		l.minute = time.AfterFunc(time.Minute, func() { l.report(false) })
		l.kinds, l.passed = map[kind]*tally{}, 0
	}
	if l.kinds[k] == nil && len(l.kinds) >= maxKinds {
		maps.DeleteFunc(l.kinds, func(_ kind, t *tally) bool {
			return t.passed <= 1 && t.suppressed == 0
		})
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

// report ends the minute, and reports what was suppressed in it. What can't be reported counts as
// suppressed in the next minute, unless this was the last one.
func (l *Log) report(last bool) {
	l.reporting.Lock()
	defer l.reporting.Unlock()
	l.mu.Lock()
	l.closed = l.closed || last
	kinds := l.kinds
	if l.minute != nil {
		l.minute.Stop()
	}
	l.kinds, l.minute = nil, nil
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
		err := l.write(context.Background(), k.event, attrs, false)
		l.mu.Lock()
		if err != nil && !l.closed {
			again, _ := l.tally(k)
			again.suppressed += t.suppressed
		}
		l.mu.Unlock()
	}
}
