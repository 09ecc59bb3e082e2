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
	shards [shardCount]shareShard
}

type shareShard struct {
	mu        sync.Mutex
	cur, prev *mints // nil: none
	_         [40]byte
}

// minted is one mint that holds a place, so that it can be given back. The zero value holds none.
type minted struct {
	shard    *shareShard
	mints    *mints
	hash     uint64
	position uint32
	at       uint32
}

func (s *shares) init(ttl time.Duration, limit int) {
	s.ttl, s.max, s.seed = ttl, limit, maphash.MakeSeed()
	s.due.init()
}

// take counts one more mint of the session at now, or returns a *TooManyError.
func (s *shares) take(session string, now time.Duration) (minted, error) {
	s.dropDead(now)
	hash := maphash.String(s.seed, session)
	shard := &s.shards[hash>>32%shardCount]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.turn(now, s.ttl)
	cur := shard.cur
	if cur == nil {
		cur = newMints(now)
		shard.cur = cur
		s.due.lower(shard.dropAt(s.ttl))
	}
	slot, head := cur.head(hash)
	if head.held()+shard.prev.held(hash) >= s.max {
		if err := shard.free(hash, now, s.ttl, s.max); err != nil {
			return minted{}, err
		}
		slot, head = cur.head(hash)
	}
	if cur.n == maxPositions {
		return minted{}, fmt.Errorf("%w: no place to count more mints", ErrFull)
	}
	position, at := cur.add(hash, slot, head, now)
	return minted{shard: shard, mints: cur, hash: hash, position: position, at: at}, nil
}

// giveBack frees the place of a mint that came to nothing.
func (s *shares) giveBack(m minted) {
	if m.shard == nil {
		return
	}
	m.shard.mu.Lock()
	defer m.shard.mu.Unlock()
	if node := m.mints.node(m.position); node.at == m.at { // else it has expired meanwhile
		node.at = 0
		_, head := m.mints.head(m.hash)
		head.count--
	}
}

// free frees one of the session's places, or says when there will be one. Until then expired mints
// keep theirs: so a mint costs the same whatever the limit is.
func (s *shareShard) free(hash uint64, now, ttl time.Duration, limit int) error {
	for {
		if !s.prev.free(hash, now, ttl) && !s.cur.free(hash, now, ttl) {
			oldest, ok := s.prev.oldest(hash)
			if !ok {
				oldest, _ = s.cur.oldest(hash)
			}
			return &TooManyError{RetryAfter: max(oldest+ttl-now, 0) + 1}
		}
		_, head := s.cur.head(hash)
		if head.held()+s.prev.held(hash) < limit {
			return nil
		}
	}
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

// mints are those of one shard within one stretch of time. A session's mints are a list, oldest
// first. The index leads to its head, which alone knows the list's end and length.
type mints struct {
	start  time.Duration
	last   time.Duration // the newest mint
	index  index
	chunks [][]mintNode
	n      uint32
}

// Positions in a node are plus one, so that 0 is none.
type mintNode struct {
	hash  uint64 // of the session
	at    uint32 // ms since start, rounded up, plus one; 0: holds no place any more
	next  uint32
	tail  uint32 // of a head: the last of the list. 0: this is no head
	count uint32 // of a head: how many of the list hold a place
}

// Nodes come in chunks, because a single slice would have to be copied whole to grow. The first
// chunk does, so that few take little.
const mintChunk = 1024

func newMints(now time.Duration) *mints {
	m := &mints{start: now, last: now}
	m.index.clear()
	return m
}

func (m *mints) node(position uint32) *mintNode {
	return &m.chunks[position/mintChunk][position%mintChunk]
}

// head returns the first node of a session's list, and the index slot that leads there; nil where
// there is none. A nil *mints has no lists.
func (m *mints) head(hash uint64) (slot uint64, head *mintNode) {
	if m == nil {
		return 0, nil
	}
	for at := hash; ; at++ {
		slot, position, found := m.index.seek(hash, at)
		if !found {
			return slot, nil
		}
		if head := m.node(position); head.hash == hash {
			return slot, head
		}
		at = slot
	}
}

func (m *mints) held(hash uint64) int {
	_, head := m.head(hash)
	return head.held()
}

// held returns how many places the list holds; nil is none.
func (head *mintNode) held() int {
	if head == nil {
		return 0
	}
	return int(head.count)
}

// oldest returns when the first mint of the list was, if its head holds a place.
func (m *mints) oldest(hash uint64) (time.Duration, bool) {
	if _, head := m.head(hash); head != nil && head.at != 0 {
		return m.when(head), true
	}
	return 0, false
}

func (m *mints) when(node *mintNode) time.Duration {
	return m.start + time.Duration(node.at-1)*time.Millisecond
}

// free takes nodes off the front of a session's list until one of them frees a place, and reports
// whether one did: the oldest that holds a place does when it has expired.
func (m *mints) free(hash uint64, now, ttl time.Duration) bool {
	slot, head := m.head(hash)
	for head != nil {
		held := head.at != 0
		if held && now <= m.when(head)+ttl {
			return false
		}
		if held {
			head.at = 0
			head.count--
		}
		if head.next == 0 {
			return held // an empty list keeps its node
		}
		next := m.node(head.next - 1)
		next.tail, next.count = head.tail, head.count
		head.tail = 0
		m.index.slots[slot] = slotOf(hash, head.next-1)
		if held {
			return true
		}
		head = next
	}
	return false
}

// add appends a mint to its session's list, of which head returned the rest, and returns where it is
// and the time it is entered for.
func (m *mints) add(hash, slot uint64, head *mintNode, now time.Duration) (position, at uint32) {
	// now may be a little before start, where another goroutine came first.
	at = uint32((max(now-m.start, 0)+time.Millisecond-1)/time.Millisecond) + 1
	m.last = max(m.last, now)
	if head != nil {
		// A store that fails makes the same session try again and again: the place it gave back is
		// the place it gets.
		if tail := m.node(head.tail - 1); tail.at == 0 {
			tail.at = at
			head.count++
			return head.tail - 1, at
		}
	}
	position = m.append(mintNode{hash: hash, at: at})
	if head != nil {
		head = m.node(m.index.position(slot)) // append may have moved it
		m.node(head.tail - 1).next = position + 1
		head.tail = position + 1
		head.count++
		return position, at
	}
	if m.index.crowded() {
		m.index.clear()
		for p := range position {
			if node := m.node(p); node.tail != 0 {
				m.index.add(node.hash, p)
			}
		}
	}
	node := m.node(position)
	node.tail, node.count = position+1, 1
	m.index.add(hash, position)
	return position, at
}

func (m *mints) append(node mintNode) (position uint32) {
	position = m.n
	if position%mintChunk == 0 {
		var chunk []mintNode
		if position > 0 {
			chunk = make([]mintNode, 0, mintChunk)
		}
		m.chunks = append(m.chunks, chunk)
	}
	last := &m.chunks[len(m.chunks)-1]
	*last = append(*last, node)
	m.n++
	return position
}
