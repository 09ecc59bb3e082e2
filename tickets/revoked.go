package tickets

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// revocations is the memory of what was revoked. What is over is forgotten a few at a time by those
// who come by, so that no call waits for it, and none pays while there is nothing to remember.
type revocations struct {
	remember time.Duration
	base     time.Time
	active   atomic.Int64 // how many are remembered
	mu       sync.RWMutex
	sessions remembered // by Revocation.SessionHash
	persons  remembered // by Revocation.UserHash
}

type hash = [sha256.Size]byte

// revoked is one of them.
type revoked struct {
	end    time.Duration // since base: the last instant at which it stands
	sec    int64         // Revocation.At
	nsec   int32
	reason string
}

func (r revoked) at() time.Time { return time.Unix(r.sec, int64(r.nsec)) }

func (rs *revocations) init(remember time.Duration) {
	rs.remember, rs.base = remember, time.Now()
}

// add enters r, or makes the one that is there stand for longer and cover more. It reports whether r
// covers anything that was not covered before.
func (rs *revocations) add(r *Revocation, now time.Time) (news bool) {
	mono := now.Sub(rs.base)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.sessions.forget(mono, rs.remember)
	rs.persons.forget(mono, rs.remember)
	v := revoked{end: mono + rs.remember, sec: r.At.Unix(), nsec: int32(r.At.Nanosecond()), reason: r.Reason}
	if r.ofSession() {
		old, ok := rs.sessions.add(r.SessionHash, v, mono)
		news = !ok || mono > old.end
	} else {
		old, ok := rs.persons.add(r.UserHash, v, mono)
		news = !ok || mono > old.end || old.at().Before(v.at())
	}
	rs.count()
	return news
}

// stands reports whether r is still remembered.
func (rs *revocations) stands(r *Revocation) bool {
	mono := time.Since(rs.base)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	v, ok := rs.sessions.m[r.SessionHash]
	if r.ofUser() {
		v, ok = rs.persons.m[r.UserHash]
	}
	return ok && mono <= v.end
}

// all returns what stands.
func (rs *revocations) all() []Revocation {
	mono := time.Since(rs.base)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	all := make([]Revocation, 0, len(rs.sessions.m)+len(rs.persons.m))
	for h, v := range rs.sessions.m {
		if mono <= v.end {
			all = append(all, Revocation{SessionHash: h, Reason: v.reason, At: v.at()})
		}
	}
	for h, v := range rs.persons.m {
		if mono <= v.end {
			all = append(all, Revocation{UserHash: h, Reason: v.reason, At: v.at()})
		}
	}
	return all
}

func (rs *revocations) count() { rs.active.Store(int64(len(rs.sessions.m) + len(rs.persons.m))) }

// cover reports whether one that stands covers g.
func (rs *revocations) cover(g *Grant) bool { return rs.active.Load() != 0 && rs.lookUp(g) }

func (rs *revocations) lookUp(g *Grant) bool {
	now := time.Now()
	mono := now.Sub(rs.base)
	session, who := HashSession(g.SessionID), HashUser(g.Provider, g.UserID)
	rs.mu.RLock()
	bySession, ok := rs.sessions.m[session]
	ok = ok && mono <= bySession.end
	byPerson, ok2 := rs.persons.m[who]
	ok2 = ok2 && mono <= byPerson.end && beganBefore(g.StartedAt, byPerson.at())
	over := rs.sessions.over(mono) || rs.persons.over(mono)
	rs.mu.RUnlock()
	if over && rs.mu.TryLock() {
		rs.sessions.forget(mono, rs.remember)
		rs.persons.forget(mono, rs.remember)
		rs.count()
		rs.mu.Unlock()
	}
	if !ok && !ok2 {
		return false
	}
	if g.SessionExpiresAt.IsZero() {
		return true
	}
	// The grant says what Revoke could not know: when the session ends by itself.
	end := mono + min(g.SessionExpiresAt.Sub(now), longest)
	if ok && end > bySession.end {
		rs.mu.Lock()
		rs.sessions.extend(session, end)
		rs.mu.Unlock()
	}
	// Not by a session that may have begun later: it would be kept out for ever, each new one
	// prolonging what keeps the next one out.
	if ok2 && end > byPerson.end && !g.StartedAt.IsZero() {
		rs.mu.Lock()
		rs.persons.extend(who, end)
		rs.mu.Unlock()
	}
	return true
}

// Some give a session without end the year 9999, which is beyond what a Duration can add.
const longest = 100 * 365 * 24 * time.Hour

// remembered are the revocations of one kind, and the order in which to look whether they are over.
type remembered struct {
	m     map[hash]revoked
	queue queue // every key of m, once
}

// add enters v, or joins it with the one that is there and is returned: whichever stands longer, and
// covers more.
func (r *remembered) add(key hash, v revoked, mono time.Duration) (old revoked, ok bool) {
	if old, ok = r.m[key]; !ok {
		if r.m == nil {
			r.m = make(map[hash]revoked)
		}
		r.m[key] = v
		r.queue.push(key, v.end)
		return old, false
	}
	if !v.at().After(old.at()) && mono <= old.end { // the same, heard again: it stands no longer for that
		return old, true
	}
	v.end = max(v.end, old.end)
	r.m[key] = v
	return old, true
}

func (r *remembered) extend(key hash, end time.Duration) {
	if v, ok := r.m[key]; ok {
		v.end = max(v.end, end)
		r.m[key] = v
	}
}

// over reports whether there may be something to forget.
func (r *remembered) over(now time.Duration) bool {
	oldest := r.queue.peek()
	return oldest != nil && now > oldest.when
}

// forget looks at the few that have waited longest. One that was prolonged goes to the end of the
// queue again, to be looked at when it is over or as late as a new one would be: so the queue stays
// in order.
func (r *remembered) forget(now, remember time.Duration) {
	for n := 0; n < 8 && r.over(now); n++ {
		key := r.queue.peek().key
		r.queue.pop()
		if end := r.m[key].end; now > end {
			delete(r.m, key)
		} else {
			r.queue.push(key, min(end, now+remember))
		}
	}
	if len(r.m) == 0 {
		r.m = nil // a map gives no memory back otherwise
	}
}
