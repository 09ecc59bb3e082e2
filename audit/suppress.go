package audit

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// floods counts refusals, and decides which of them are not written.
type floods struct {
	each, all float64 // per minute
	report    func(e Event, attrs ...slog.Attr) error

	reporting sync.Mutex // held during a report, for which Close waits

	mu     sync.Mutex
	total  bucket
	kinds  map[kind]*bucket
	swept  time.Time
	timer  *time.Timer
	closed bool
}

// A kind is all refusals of one event, reason and address. Without an address
// it is those of the kinds that there is no room for.
type kind struct {
	event        Event
	reason, addr string
}

// A bucket fills with the refusals that are written, and empties in a minute.
type bucket struct {
	used       float64
	at         time.Time
	suppressed uint64
}

// maxKinds bounds the kinds with an address, and then those with a reason.
// Those without either are as many as there are events that are refusals.
const maxKinds = 256

func newFloods(o FileOptions, report func(Event, ...slog.Attr) error) *floods {
	return &floods{
		each: float64(o.RepeatsPerMinute), all: float64(o.RefusalsPerMinute),
		report: report, kinds: map[kind]*bucket{},
	}
}

func (b *bucket) level(now time.Time, perMinute float64) float64 {
	if since := now.Sub(b.at); since > 0 {
		b.used = max(0, b.used-perMinute*since.Minutes())
		b.at = now
	}
	return b.used
}

func (b *bucket) take(now time.Time, perMinute float64) bool {
	if b.level(now, perMinute) > perMinute-1 {
		return false
	}
	b.used++
	return true
}

// suppress reports whether a refusal is one too many, and counts it if so.
func (f *floods) suppress(now time.Time, e Event, attrs []slog.Attr) bool {
	k := kind{event: e}
	for _, a := range attrs {
		switch {
		case a.Value.Kind() != slog.KindString:
		case a.Key == "reason":
			k.reason = short(a.Value.String())
		case a.Key == "ip":
			k.addr = neighbourhood(short(a.Value.String()))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.kinds[k]
	if b == nil && f.hasRoom(now) {
		b = f.add(k)
	}
	if (b == nil || b.take(now, f.each)) && f.total.take(now, f.all) {
		return false
	}
	if b == nil {
		k.addr = ""
		if f.kinds[k] == nil && len(f.kinds) >= 2*maxKinds {
			k.reason = ""
		}
		b = f.add(k)
	}
	b.suppressed++
	f.arm()
	return true
}

// short returns what a kind keeps of s.
func short(s string) string { return s[:min(len(s), 128)] }

// neighbourhood returns the address that addr counts as: one customer has a
// whole /64 of IPv6 (RFC 6177).
func neighbourhood(addr string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return addr
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(64)
	return network.String()
}

// add returns the bucket of a kind. A kind's strings are kept, so they are copied.
func (f *floods) add(k kind) *bucket {
	if f.kinds[k] == nil {
		k.reason, k.addr = strings.Clone(k.reason), strings.Clone(k.addr)
		f.kinds[k] = &bucket{}
	}
	return f.kinds[k]
}

// hasRoom reports whether there is room for one more kind. Kinds that were
// quiet make room, but they are looked for only once a second.
func (f *floods) hasRoom(now time.Time) bool {
	if len(f.kinds) < maxKinds {
		return true
	}
	if since := now.Sub(f.swept); since >= 0 && since < time.Second {
		return false
	}
	f.swept = now
	for k, b := range f.kinds {
		if b.suppressed == 0 && b.level(now, f.each) == 0 {
			delete(f.kinds, k)
		}
	}
	return len(f.kinds) < maxKinds
}

// reportAll reports what was suppressed since the last time. What can't be
// reported is reported with the rest the next time.
func (f *floods) reportAll() {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	f.mu.Lock()
	suppressed := map[kind]uint64{}
	for k, b := range f.kinds {
		if b.suppressed > 0 {
			suppressed[k] = b.suppressed
		}
	}
	f.timer = nil
	f.mu.Unlock()

	for k, n := range suppressed {
		attrs := []slog.Attr{slog.String("reason", k.reason)}
		if k.addr != "" {
			attrs = append(attrs, slog.String("ip", k.addr))
		}
		err := f.report(k.event, append(attrs, slog.Uint64("suppressed", n))...)
		f.mu.Lock()
		if err == nil {
			f.kinds[k].suppressed -= n
		} else {
			f.arm()
		}
		f.mu.Unlock()
	}
}

// arm makes a report come within a minute.
func (f *floods) arm() {
	if f.timer == nil && !f.closed {
		f.timer = time.AfterFunc(time.Minute, f.reportAll)
	}
}

// close reports once more, and never again.
func (f *floods) close() {
	f.mu.Lock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.mu.Unlock()
	f.reportAll()
}
