package tickets

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMaxOutstanding is how many tickets a MemoryStore holds by default.
const DefaultMaxOutstanding = 1 << 20

// MemoryOptions are the options of a MemoryStore.
type MemoryOptions struct {
	// MaxOutstanding bounds the tickets that have not expired yet, used ones included; Put beyond
	// it is ErrFull. An expired ticket is not counted, or, where lifetimes are mixed, at the latest
	// when those put before it have expired too. Zero or less is the default:
	// DefaultMaxOutstanding, 1 << 20, which takes about 200 MB.
	MaxOutstanding int
}

// MemoryStore is the Store of a single process. Two servers with one each know nothing of each
// other's tickets, and a restart ends all tickets, which live for 30 s. It is for one Issuer: two
// over one MemoryStore would share tickets, but not revocations.
//
// It never waits, runs no goroutine and needs no Close. Each shard has four generations of tickets,
// and a new one begins as often as a third of the longest lifetime passes. So expired tickets leave
// memory with the first Put or Take after their time, whole generations at once: no call is slower
// while a million expire. A ticket stays in memory as long as the longest one that was put with it.
//
// A ticket expires when the monotonic clock or the wall clock says so: suspend stops the first, and
// setting the time moves the second.
type MemoryStore struct {
	max    int64
	now    func() (mono time.Duration, wall time.Time) // replaced in tests, where the two part
	base   time.Time                                   // where mono begins
	count  atomic.Int64                                // tickets that are not known to have expired
	turnAt atomic.Int64                                // mono time of the next generation
	shards [memoryShards]memoryShard
}

// memoryShards is enough that processors seldom wait for each other.
const memoryShards = 16

type memoryShard struct {
	mu          sync.Mutex
	generations [4]*generation // newest first; nil: empty
	_           [88]byte       // up to two cache lines, which processors fetch together
}

const (
	// An expired ticket is remembered as expired for this long after its end.
	expiredMemory = 5 * time.Second
	// No ticket lives longer. What is kept for days is a session, not a ticket.
	maxLifetime = time.Hour
	// How many expired tickets one Put takes off the count when the store is full.
	uncountAtOnce = 64
)

var (
	errKeyKnown = errors.New("memory store: the key was put before")
	errTooLarge = fmt.Errorf("memory store: the grant takes %d bytes or more", maxEntry+1)
	errTooLong  = fmt.Errorf("memory store: the grant expires later than %v from now", maxLifetime)
)

// NewMemoryStore returns an empty store; nil options are the defaults.
func NewMemoryStore(opts *MemoryOptions) *MemoryStore {
	m := &MemoryStore{max: DefaultMaxOutstanding, base: time.Now()}
	if opts != nil && opts.MaxOutstanding > 0 {
		m.max = int64(opts.MaxOutstanding)
	}
	m.now = func() (time.Duration, time.Time) {
		now := time.Now()
		return now.Sub(m.base), now
	}
	return m
}

// Put keeps g under key until g.ExpiresAt. It returns ErrFull at MaxOutstanding, and an error for a
// key that was put before and for a grant that expires more than an hour from now.
func (m *MemoryStore) Put(_ context.Context, key Key, g Grant) error {
	now, wall := m.now()
	lifetime := g.ExpiresAt.Sub(wall)
	if lifetime > maxLifetime {
		return errTooLong
	}
	return m.put(&key.id, &g, now, lifetime, false)
}

// put is Put, for a ticket that lives for the given time from now. An ID is fresh if it belongs to
// a ticket that was just made: crypto/rand does not repeat itself, so there is no need to look for
// it.
func (m *MemoryStore) put(
	id *[32]byte, g *Grant, now, lifetime time.Duration, fresh bool,
) error {
	size := entrySize(g)
	if size > maxEntry {
		return errTooLarge
	}
	m.turn(now)
	if !m.reserve(now) {
		return ErrFull
	}
	shard := m.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if !fresh {
		if known, _, _ := shard.find(id); known != nil {
			m.count.Add(-1)
			return errKeyKnown
		}
	}
	if !shard.newest().add(id, now+lifetime, g, size) {
		m.count.Add(-1)
		return ErrFull
	}
	return nil
}

// Take returns the grant under key to the first caller until it expires.
func (m *MemoryStore) Take(_ context.Context, key Key) (g Grant, err error) {
	err = m.take(&key.id, &g)
	return g, err
}

// take is Take. It leaves g alone if there is an error.
func (m *MemoryStore) take(id *[32]byte, g *Grant) error {
	now, wall := m.now()
	m.turn(now)
	shard := m.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	gen, chunk, offset := shard.find(id)
	if gen == nil {
		return ErrUnknown
	}
	e := gen.entry(chunk, offset)
	if e.used() {
		return ErrUsed
	}
	if now > e.deadline() {
		return ErrExpired
	}
	if err := g.decode(e.grant()); err != nil {
		return err // not reached: add wrote it
	}
	if wall.After(g.ExpiresAt) { // which has no monotonic reading, so this compares wall clocks
		*g = Grant{}
		return ErrExpired
	}
	gen.use(chunk, offset)
	return nil
}

func (m *MemoryStore) shard(id *[32]byte) *memoryShard { return &m.shards[id[0]%memoryShards] }

// find returns the generation that has id, or nil, and where in it.
func (s *memoryShard) find(id *[32]byte) (gen *generation, chunk, offset int) {
	for _, gen := range s.generations {
		if gen != nil {
			if chunk, offset, found := gen.find(id); found {
				return gen, chunk, offset
			}
		}
	}
	return nil, 0, 0
}

// newest returns the generation for new tickets.
func (s *memoryShard) newest() *generation {
	if s.generations[0] == nil {
		expected := 0
		if before := s.generations[1]; before != nil {
			expected = before.index.len() // so that the index seldom has to grow
		}
		s.generations[0] = &generation{index: newIndex(expected)}
	}
	return s.generations[0]
}

// reserve counts one more ticket, or reports that the store is full.
func (m *MemoryStore) reserve(now time.Duration) bool {
	for {
		n := m.count.Load()
		if n < m.max {
			if m.count.CompareAndSwap(n, n+1) {
				return true
			}
		} else if !m.uncount(now) && m.count.Load() >= m.max {
			return false
		}
	}
}

// uncount takes expired tickets off the count and reports whether there were any. Only a full store
// needs to know of them one by one.
func (m *MemoryStore) uncount(now time.Duration) bool {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n := 0
		for _, gen := range s.generations {
			if gen != nil {
				n += gen.uncount(now, uncountAtOnce-n)
			}
		}
		m.count.Add(int64(-n)) // under the lock, so that who finds none left sees the new count
		s.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// turn begins a new generation in every shard, if it is time. The time between two turns is a third
// of how long the newest generation has to be kept. So it can be dropped at the third turn after.
func (m *MemoryStore) turn(now time.Duration) {
	at := m.turnAt.Load()
	if int64(now) < at || !m.turnAt.CompareAndSwap(at, math.MaxInt64) {
		return
	}
	until := now
	for i := range m.shards {
		until = max(until, m.shards[i].turn(now, &m.count))
	}
	m.turnAt.Store(int64(now + (until+expiredMemory-now)/3 + 1))
}

// turn drops the generations that are over, and makes room for a new one if there is a free place.
// It takes what it drops off the count, and returns the latest deadline of the newest generation.
func (s *memoryShard) turn(now time.Duration, count *atomic.Int64) (until time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if newest := s.generations[0]; newest != nil {
		until = newest.until
	}
	free := -1
	for i, gen := range s.generations {
		if gen != nil && now > gen.until+expiredMemory {
			count.Add(int64(-gen.counted))
			gen, s.generations[i] = nil, nil
		}
		if gen == nil {
			free = i
		}
	}
	if free >= 0 {
		copy(s.generations[1:free+1], s.generations[:free])
		s.generations[0] = nil
	}
	return until
}
