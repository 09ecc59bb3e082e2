package audit

import (
	"hash/maphash"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// floods counts refusals, and says which of them are not to be written.
type floods struct {
	each, all float64 // a minute
	tell      func(e Event, attrs ...slog.Attr) error
	seed      maphash.Seed

	telling sync.Mutex // held during a report, which Close waits for

	mu     sync.Mutex
	total  bucket
	kinds  map[uint64]*kind
	swept  time.Time
	others uint64 // suppressed, of no kind that there is room for
	timer  *time.Timer
	closed bool
}

// A kind is all refusals of one event, reason and address.
type kind struct {
	event        Event
	reason, addr string
	bucket       bucket
	suppressed   uint64
}

// maxKinds bounds the table, and with it how many lines tell of it a minute.
const maxKinds = 256

const suppressedEvent Event = "audit_suppressed"

func newFloods(o FileOptions, tell func(Event, ...slog.Attr) error) *floods {
	return &floods{each: float64(o.RepeatsPerMinute), all: float64(o.RefusalsPerMinute), tell: tell,
		seed: maphash.MakeSeed(), kinds: map[uint64]*kind{}}
}

// A bucket is full at first, and fills up again within a minute.
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
	net, id := f.identify(e, reason, addr)

	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kinds[id]
	if k == nil && f.room(now) {
		if net.IsValid() {
			addr = net.String()
		}
		k = &kind{event: e, reason: short(reason), addr: short(addr)}
		f.kinds[id] = k
	}
	if (k == nil || k.bucket.take(now, f.each)) && f.total.take(now, f.all) {
		return false
	}
	if k != nil {
		k.suppressed++
	} else {
		f.others++
	}
	f.arm()
	return true
}

// identify tells kinds apart. A neighbour in an IPv6 /64 is the same address:
// one customer has that many (RFC 6177).
func (f *floods) identify(e Event, reason, addr string) (net netip.Prefix, id uint64) {
	var h maphash.Hash
	h.SetSeed(f.seed)
	h.WriteString(string(e))
	h.WriteByte(0)
	h.WriteString(reason)
	h.WriteByte(0)
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		h.WriteString(addr)
		return netip.Prefix{}, h.Sum64()
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		net, _ = ip.Prefix(64)
		ip = net.Addr()
	}
	b := ip.As16()
	h.Write(b[:])
	return net, h.Sum64()
}

// room reports whether there is room for one more kind. Those that have been
// quiet make room, but they are looked for once a second only.
func (f *floods) room(now time.Time) bool {
	if len(f.kinds) < maxKinds {
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
	return len(f.kinds) < maxKinds
}

// short is a copy of s that can be kept.
func short(s string) string { return strings.Clone(s[:min(len(s), 128)]) }

// report tells what was suppressed since the last time. What can't be told
// now is told with the rest the next time.
func (f *floods) report() {
	f.telling.Lock()
	defer f.telling.Unlock()
	f.mu.Lock()
	var told []kind
	for _, k := range f.kinds {
		if k.suppressed > 0 {
			told = append(told, *k)
			k.suppressed = 0
		}
	}
	others := f.others
	f.others, f.timer = 0, nil
	f.mu.Unlock()

	lost := uint64(0)
	for _, k := range told {
		if f.tell(k.event, slog.String("reason", k.reason), slog.String("ip", k.addr), slog.Uint64("suppressed", k.suppressed)) != nil {
			lost += k.suppressed
		}
	}
	if others > 0 && f.tell(suppressedEvent, slog.Uint64("suppressed", others)) != nil {
		lost += others
	}
	if lost > 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.others += lost
		f.arm()
	}
}

// arm has the report come within a minute.
func (f *floods) arm() {
	if f.timer == nil && !f.closed {
		f.timer = time.AfterFunc(time.Minute, f.report)
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
	f.report()
}
