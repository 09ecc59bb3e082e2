package tickets

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// revocations remembers what was revoked. Every call forgets a few that are over, so that no call
// waits for a million of them, and none pays anything while there are none.
type revocations struct {
	remember time.Duration
	base     time.Time
	active   atomic.Int64 // how many are remembered

	mu    sync.RWMutex
	all   map[subject]revoked
	queue []queued // every subject of all, once, in the order in which to look whether it is over
}

// subject is a revoked session or user.
type subject struct {
	user bool
	hash [sha256.Size]byte
}

type revoked struct {
	until  time.Duration // since base: the last instant at which it is in force
	at     time.Time     // Revocation.At
	reason string
}

type queued struct {
	subject subject
	when    time.Duration
}

// Some give a session without end the year 9999, which is more than a Duration holds.
const longest = 100 * 365 * 24 * time.Hour

func newRevocations(remember time.Duration) *revocations {
	return &revocations{remember: remember, base: time.Now()}
}

// add remembers r, which is hashed. If its subject is revoked already, the one that is in force
// longer and covers more stands. It reports whether r covers anything that was not covered before.
func (rs *revocations) add(r *Revocation, now time.Time) (news bool) {
	mono := now.Sub(rs.base)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.forget(mono)
	key := r.subject()
	added := revoked{until: mono + rs.remember, at: r.At, reason: r.Reason}
	old, known := rs.all[key]
	if !known {
		if rs.all == nil {
			rs.all = make(map[subject]revoked)
		}
		rs.all[key] = added
		rs.queue = append(rs.queue, queued{key, added.until})
		rs.active.Store(int64(len(rs.all)))
		return true
	}
	over, later := mono > old.until, added.at.After(old.at)
	if over || later { // else it is the same, received again: that does not prolong it
		added.until = max(added.until, old.until)
		rs.all[key] = added
	}
	return over || key.user && later
}

// inForce reports whether r is still remembered.
func (rs *revocations) inForce(r *Revocation) bool {
	mono := time.Since(rs.base)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	v, ok := rs.all[r.subject()]
	return ok && mono <= v.until
}

// list returns everything that is in force.
func (rs *revocations) list() []Revocation {
	mono := time.Since(rs.base)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	list := make([]Revocation, 0, len(rs.all))
	for key, v := range rs.all {
		if mono > v.until {
			continue
		}
		r := Revocation{Reason: v.reason, At: v.at}
		if key.user {
			r.UserHash = key.hash
		} else {
			r.SessionHash = key.hash
		}
		list = append(list, r)
	}
	return list
}

// cover reports whether a revocation that is in force covers g.
func (rs *revocations) cover(g *Grant) bool { return rs.active.Load() != 0 && rs.lookUp(g) }

func (rs *revocations) lookUp(g *Grant) bool {
	now := time.Now()
	mono := now.Sub(rs.base)
	session := subject{hash: HashSession(g.SessionID)}
	user := subject{user: true, hash: HashUser(g.Provider, g.UserID)}
	rs.mu.RLock()
	ofSession, ok := rs.all[session]
	ok = ok && mono <= ofSession.until
	ofUser, ok2 := rs.all[user]
	ok2 = ok2 && mono <= ofUser.until && beganBefore(g.StartedAt, ofUser.at)
	over := rs.over(mono)
	rs.mu.RUnlock()
	if over && rs.mu.TryLock() {
		rs.forget(mono)
		rs.mu.Unlock()
	}
	if !ok && !ok2 {
		return false
	}
	if g.SessionExpiresAt.IsZero() {
		return true
	}
	// The grant says what Revoke did not know: when the session ends by itself.
	end := mono + min(g.SessionExpiresAt.Sub(now), longest)
	if ok && end > ofSession.until {
		rs.extend(session, end)
	}
	// Not if it is unknown when the session began: it may have begun after the revocation, and each
	// new session would prolong what keeps out the next one, for ever.
	if ok2 && end > ofUser.until && !g.StartedAt.IsZero() {
		rs.extend(user, end)
	}
	return true
}

// extend keeps the revocation of a subject in force until end.
func (rs *revocations) extend(key subject, end time.Duration) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if v, ok := rs.all[key]; ok && end > v.until {
		v.until = end
		rs.all[key] = v
	}
}

// over reports whether there may be something to forget.
func (rs *revocations) over(now time.Duration) bool {
	return len(rs.queue) > 0 && now > rs.queue[0].when
}

// forget looks at the first few of the queue. One that was prolonged is queued again, for its end
// or for when a new one would end: so the queue stays in order.
func (rs *revocations) forget(now time.Duration) {
	const atOnce = 8
	for n := 0; n < atOnce && rs.over(now); n++ {
		key := rs.queue[0].subject
		rs.queue = rs.queue[1:]
		if until := rs.all[key].until; now > until {
			delete(rs.all, key)
		} else {
			rs.queue = append(rs.queue, queued{key, min(until, now+rs.remember)})
		}
	}
	if len(rs.all) == 0 {
		rs.all, rs.queue = nil, nil // a map gives no memory back otherwise
	}
	rs.active.Store(int64(len(rs.all)))
}
