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
	log       *Log
	each, all int // refusals that are written in a minute

	reporting sync.Mutex // held during a report, for which Close waits

	mu      sync.Mutex
	kinds   map[kind]*tally
	written int         // of all kinds
	minute  *time.Timer // nil: none has begun
	closed  bool
}

// A kind is all refusals of one event, reason and address.
type kind struct {
	event        Event
	reason, addr string
}

type tally struct {
	written    int
	suppressed uint64
}

// maxKinds bounds the kinds with an address, and then those with a reason.
// Those without either are as many as there are events that are refusals.
const maxKinds = 256

func newFloods(l *Log, o FileOptions) *floods {
	return &floods{
		log: l, each: o.RepeatsPerMinute, all: o.RefusalsPerMinute,
		kinds: map[kind]*tally{},
	}
}

// suppress reports whether a refusal is one too many, and counts it. A log that
// is closed suppresses nothing: no report would tell of it.
func (f *floods) suppress(e Event, attrs []slog.Attr) bool {
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
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	t, shared := f.tally(k)
	if (shared || t.written < f.each) && f.written < f.all {
		t.written++
		f.written++
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
func (f *floods) tally(k kind) (t *tally, shared bool) {
	if f.minute == nil && !f.closed {
		f.minute = time.AfterFunc(time.Minute, f.endMinute)
	}
	if f.kinds[k] == nil && len(f.kinds) >= maxKinds {
		k.addr, shared = "", true
	}
	if f.kinds[k] == nil && len(f.kinds) >= 2*maxKinds {
		k.reason = ""
	}
	if f.kinds[k] == nil {
		k.reason, k.addr = strings.Clone(k.reason), strings.Clone(k.addr) // of longer texts
		f.kinds[k] = &tally{}
	}
	return f.kinds[k], shared
}

// endMinute reports what was suppressed in the minute. What can't be reported
// counts as suppressed in the next one.
func (f *floods) endMinute() {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	f.mu.Lock()
	kinds := f.kinds
	f.kinds, f.written, f.minute = map[kind]*tally{}, 0, nil
	f.mu.Unlock()
	for k, t := range kinds {
		if t.suppressed == 0 {
			continue
		}
		attrs := []slog.Attr{slog.String("reason", k.reason)}
		if k.addr != "" {
			attrs = append(attrs, slog.String("ip", k.addr))
		}
		attrs = append(attrs, slog.Uint64("suppressed", t.suppressed))
		if f.log.write(context.Background(), time.Now(), k.event, attrs, false) != nil {
			f.mu.Lock()
			again, _ := f.tally(k)
			again.suppressed += t.suppressed
			f.mu.Unlock()
		}
	}
}

// close reports once more, and never again.
func (f *floods) close() {
	f.mu.Lock()
	f.closed = true
	if f.minute != nil {
		f.minute.Stop()
	}
	f.mu.Unlock()
	f.endMinute()
}
