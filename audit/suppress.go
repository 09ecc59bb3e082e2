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

// floods counts the refusals of a minute. A minute begins with its first refusal.
type floods struct {
	reporting sync.Mutex // held during a report; Close waits for it

	mu     sync.Mutex
	kinds  map[kind]*tally
	passed int         // refusals of all kinds
	minute *time.Timer // ends the minute; nil before its first refusal
	closed bool
}

// Refusals of one kind have the same event, reason and address.
type kind struct {
	event        Event
	reason, addr string
}

type tally struct {
	passed     int
	suppressed uint64
}

const maxKinds = 256    // kinds with an address; as many more have only a reason
const maxKindText = 128 // bytes of a kind's reason and address

// suppress counts a refusal, and reports whether it is above a rate. After Close it reports false,
// because no report would follow.
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

// network returns addr in one spelling. IPv6 counts by /64: one customer has all of it (RFC 6177).
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

// tally returns the tally of a kind. If there are too many, it forgets kinds that came only once:
// many addresses must not hide one that comes often. If that is not enough, kinds share a tally
// without address, then without reason.
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
		k.reason, k.addr = strings.Clone(k.reason), strings.Clone(k.addr) // frees the longer texts
		l.kinds[k] = &tally{}
	}
	return l.kinds[k], shared
}

// report ends the minute, and writes a line for each kind with suppressed refusals. If that fails,
// their number is added to the next minute, unless the log is closed.
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
