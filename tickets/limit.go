package tickets

import (
	"hash/maphash"
	"sync"
	"time"
)

// limiter bounds what a session may mint within one TTL. Time is cut into windows of one TTL, and a
// session has two counters: for this window and for the last one. Any stretch of one TTL touches at
// most two windows, so the sum of both is never less than what was minted in it. Of the last window
// it is known when the first and the latest mint were; the others count until the latest is one TTL
// old. So a mint may be refused that an exact count would allow.
type limiter struct {
	ttl  time.Duration
	max  int
	seed maphash.Seed // keyed, so that nobody can choose sessions that share a counter

	mu         sync.Mutex
	window     int64 // number of this window
	this, last map[uint64]mints
}

// mints are those of one session within one window. Neither it nor its key has a pointer, so that
// the garbage collector need not look into the maps.
type mints struct {
	n             int
	first, latest time.Duration
}

func newLimiter(ttl time.Duration, limit int) *limiter {
	return &limiter{
		ttl: ttl, max: limit, seed: maphash.MakeSeed(), this: make(map[uint64]mints),
	}
}

// take counts one more mint of the session at now, or returns a *TooManyError.
func (l *limiter) take(session string, now time.Duration) error {
	hash := maphash.String(l.seed, session)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(int64(now / l.ttl))
	this, last := l.this[hash], l.last[hash]
	switch {
	case now > last.latest+l.ttl:
		last.n = 0
	case now > last.first+l.ttl:
		last.n--
		last.first = last.latest
	}
	if this.n+last.n >= l.max {
		oldest := this.first
		if last.n > 0 {
			oldest = last.first
		}
		return &TooManyError{RetryAfter: max(oldest+l.ttl-now, 0) + 1}
	}
	if this.n == 0 {
		this = mints{first: now, latest: now}
	}
	l.this[hash] = mints{this.n + 1, min(this.first, now), max(this.latest, now)}
	return nil
}

// turn makes window the current one, unless it is older. Counters of older windows than the last
// one are dropped whole.
func (l *limiter) turn(window int64) {
	if window <= l.window {
		return
	}
	l.last = nil
	if window == l.window+1 {
		l.last = l.this
	}
	l.this, l.window = make(map[uint64]mints), window
}

// release takes back the count of a mint that failed. The arguments are those of take.
func (l *limiter) release(session string, now time.Duration) {
	hash := maphash.String(l.seed, session)
	l.mu.Lock()
	defer l.mu.Unlock()
	counters := l.this
	switch int64(now / l.ttl) {
	case l.window:
	case l.window - 1:
		counters = l.last
	default:
		return // they are dropped already
	}
	if m := counters[hash]; m.n > 1 {
		counters[hash] = mints{m.n - 1, m.latest, m.latest} // it may have been the first
	} else {
		delete(counters, hash)
	}
}
