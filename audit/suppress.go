package audit

import (
	"hash/maphash"
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
	seed      maphash.Seed

	reporting sync.Mutex // held during a report, for which Close waits

	mu     sync.Mutex
	total  bucket
	kinds  map[uint64]*kind
	swept  time.Time
	timer  *time.Timer
	closed bool
}

// A kind is all refusals of one event, reason and address. Without an address
// it is those of the kinds that there is no room for.
type kind struct {
	event        Event
	reason, addr string
	bucket       bucket
	suppressed   uint64
}

// maxKinds bounds the kinds with an address, and then those with a reason.
// Those without either are as many as the events that are refusals.
const maxKinds = 256

func newFloods(o FileOptions, report func(Event, ...slog.Attr) error) *floods {
	return &floods{
		each: float64(o.RepeatsPerMinute), all: float64(o.RefusalsPerMinute), report: report,
		seed: maphash.MakeSeed(), kinds: map[uint64]*kind{},
	}
}

// A bucket is empty at first, and empties within a minute.
type bucket struct {
	used float64
	at   time.Time
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
	var reason, addr string
	for i := range attrs {
		if attrs[i].Value.Kind() == slog.KindString {
			switch attrs[i].Key {
			case "reason":
				reason = attrs[i].Value.String()
			case "ip":
				addr = attrs[i].Value.String()
			}
		}
	}
	ip, net := neighbourhood(addr)

	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kinds[f.id(e, reason, addr, ip)]
	if k == nil && f.hasRoom(now, maxKinds) {
		if net != "" {
			addr = net
		}
		k = f.kind(f.id(e, reason, addr, ip), e, reason, addr)
	}
	if (k == nil || k.bucket.take(now, f.each)) && f.total.take(now, f.all) {
		return false
	}
	if k == nil {
		k = f.rest(e, reason)
	}
	k.suppressed++
	f.arm()
	return true
}

// rest returns the kind of the refusals that have none of their own.
func (f *floods) rest(e Event, reason string) *kind {
	var none netip.Addr
	id := f.id(e, reason, "", none)
	if f.kinds[id] == nil && len(f.kinds) >= 2*maxKinds {
		reason = ""
		id = f.id(e, reason, "", none)
	}
	return f.kind(id, e, reason, "")
}

func (f *floods) kind(id uint64, e Event, reason, addr string) *kind {
	k := f.kinds[id]
	if k == nil {
		k = &kind{event: e, reason: short(reason), addr: short(addr)}
		f.kinds[id] = k
	}
	return k
}

// neighbourhood returns the address that an address counts as, and for IPv6
// its network: one customer has a whole /64 (RFC 6177).
func neighbourhood(addr string) (ip netip.Addr, net string) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Addr{}, ""
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip, ip.String()
	}
	p, _ := ip.Prefix(64)
	return p.Addr(), p.String()
}

func (f *floods) id(e Event, reason, addr string, ip netip.Addr) uint64 {
	var h maphash.Hash
	h.SetSeed(f.seed)
	maphash.WriteComparable(&h, e)
	maphash.WriteComparable(&h, reason)
	if ip.IsValid() {
		maphash.WriteComparable(&h, ip)
	} else {
		h.WriteString(addr)
	}
	return h.Sum64()
}

// hasRoom reports whether there is room for one more kind. Kinds that were
// quiet make room, but they are looked for only once a second.
func (f *floods) hasRoom(now time.Time, most int) bool {
	if len(f.kinds) < most {
		return true
	}
	if since := now.Sub(f.swept); since >= 0 && since < time.Second {
		return false
	}
	f.swept = now
	for id, k := range f.kinds {
		if k.suppressed == 0 && k.bucket.level(now, f.each) == 0 {
			delete(f.kinds, id)
		}
	}
	return len(f.kinds) < most
}

// short returns a copy of s that can be kept.
func short(s string) string { return strings.Clone(s[:min(len(s), 128)]) }

// reportAll reports what was suppressed since the last time. What can't be
// reported is reported with the rest the next time.
func (f *floods) reportAll() {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	f.mu.Lock()
	suppressed := map[*kind]uint64{}
	for _, k := range f.kinds {
		if k.suppressed > 0 {
			suppressed[k] = k.suppressed
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
			k.suppressed -= n
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
