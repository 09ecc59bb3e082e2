package tickets

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// shares counts what each session has minted within the last TTL: an exact sliding window, to the
// millisecond. It knows sessions by a keyed hash, holds no pointer for any of them, and forgets as
// a MemoryStore does, by dropping whole what is over: a shard has the mints of two stretches of
// time, each of one TTL at least where anything was minted in it.
type shares struct {
	ttl    time.Duration
	max    int
	seed   maphash.Seed // nobody can choose session ids that meet
	due    due
	shards []shareShard // a power of two
}

type shareShard struct {
	mu        sync.Mutex
	cur, prev *window   // nil: none
	_         [104]byte // two cache lines to itself
}

// minted is one mint that holds a place, so that it can be given back. The zero value holds none.
type minted struct {
	shard *shareShard
	list  *mintList
	mint  *mint
	at    uint32
}

func (s *shares) init(ttl time.Duration, limit int) {
	s.ttl, s.max, s.seed = ttl, limit, maphash.MakeSeed()
	s.shards = make([]shareShard, shardCount())
	s.due.init()
}

// take counts one more mint of the session at now, or returns a *TooManyError.
func (s *shares) take(session string, now time.Duration) (minted, error) {
	s.dropDead(now)
	hash := maphash.String(s.seed, session)
	shard := &s.shards[int(hash>>32)&(len(s.shards)-1)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.turn(now, s.ttl)
	cur := shard.cur
	if cur == nil {
		cur = newWindow(now)
		shard.cur = cur
		s.due.lower(shard.dropAt(s.ttl))
	}
	list := cur.list(hash)
	if list.held()+shard.prev.list(hash).held() >= s.max {
		if err := shard.free(hash, now, s.ttl, s.max); err != nil {
			return minted{}, err
		}
	}
	if cur.lists.n == maxPositions || cur.mints.n == maxPositions {
		return minted{}, fmt.Errorf("%w: no place to count more mints", ErrFull)
	}
	m := cur.add(hash, list, now)
	m.shard = shard
	return m, nil
}

// giveBack frees the place of a mint that came to nothing.
func (s *shares) giveBack(m minted) {
	if m.shard == nil {
		return
	}
	m.shard.mu.Lock()
	defer m.shard.mu.Unlock()
	// It may have moved to the front meanwhile, or have expired and be gone.
	for _, mint := range []*mint{m.mint, &m.list.first} {
		if mint.at == m.at {
			mint.at = 0
			m.list.count--
			return
		}
	}
}

// free frees one of the session's places, or says when there will be one. Until then expired mints
// keep theirs: so a mint costs the same whatever the limit is.
func (s *shareShard) free(hash uint64, now, ttl time.Duration, limit int) error {
	old, cur := s.prev.list(hash), s.cur.list(hash)
	for old.held()+cur.held() >= limit {
		if s.prev.free(old, now, ttl) || s.cur.free(cur, now, ttl) {
			continue
		}
		oldest, ok := s.prev.oldest(old)
		if !ok {
			oldest, _ = s.cur.oldest(cur)
		}
		return &TooManyError{RetryAfter: max(oldest+ttl-now, 0) + 1}
	}
	return nil
}

// dropDead visits every shard when one of them has something to drop, so that one call is enough to
// empty them all.
func (s *shares) dropDead(now time.Duration) {
	if !s.due.passed(now) {
		return
	}
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		shard.turn(now, s.ttl)
		if shard.cur != nil || shard.prev != nil {
			s.due.lower(shard.dropAt(s.ttl))
		}
		shard.mu.Unlock()
	}
}

// turn drops what is over and, one TTL after cur began, starts anew. By then what was in prev is
// over in any case.
func (s *shareShard) turn(now, ttl time.Duration) {
	if s.prev != nil && now > s.prev.last+ttl {
		s.prev = nil
	}
	switch {
	case s.cur == nil:
	case now > s.cur.last+ttl:
		s.cur = nil
	case now > s.cur.start+ttl:
		s.prev, s.cur = s.cur, nil
	}
}

// dropAt is when turn will next have something to do.
func (s *shareShard) dropAt(ttl time.Duration) time.Duration {
	switch {
	case s.prev == nil:
		return s.cur.start + ttl
	case s.cur == nil:
		return s.prev.last + ttl
	}
	return min(s.cur.start, s.prev.last) + ttl
}
