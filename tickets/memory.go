package tickets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMaxOutstanding is how many tickets a MemoryStore keeps unless told otherwise.
const DefaultMaxOutstanding = 1 << 20

// MemoryOptions are the options of a MemoryStore.
type MemoryOptions struct {
	// MaxOutstanding bounds the tickets that have not expired yet, used ones included; Put beyond
	// it is ErrFull. An expired one counts no longer, or, where lifetimes are mixed, at the latest
	// when those minted before it have expired. Default, for zero or less too:
	// DefaultMaxOutstanding, 1 << 20, which is about 200 MB when reached.
	MaxOutstanding int
}

// MemoryStore is the Store of a single process, and the default. Two servers that have one each
// know nothing of each other's tickets, and a restart ends all of them: they live 30 s anyway. It is
// for one Issuer: two over one MemoryStore would share tickets, and not revocations.
//
// It never waits, runs no goroutine and needs no Close. Expired tickets leave memory with the first
// Put or Take after their time, a few thousand at a stroke and without a scan, so that no call is
// slower while a million expire. A ticket is dead when the monotonic clock or the wall clock says
// so: a machine that sleeps stops the one, a clock that is set moves the other.
type MemoryStore struct {
	max    int64
	now    func() (mono time.Duration, wall time.Time) // replaced in tests, where the two part
	base   time.Time                                   // where mono begins
	count  atomic.Int64                                // entries in all generations but the retired ones, and unused places
	due    due
	shards []memoryShard // a power of two
}

// shardCount is enough shards that two processors seldom meet in one, and no more: what a ticket touches of
// a shard is in a processor's cache only if tickets come there often.
func shardCount() int {
	return min(max(16, 1<<bits.Len(uint(4*runtime.GOMAXPROCS(0)-1))), 256)
}

type memoryShard struct {
	mu          sync.Mutex
	generations []*generation // in the order in which they were opened
	places      int64         // for entries, which are counted already
	_           [88]byte      // two cache lines to itself, which processors fetch as one
}

const (
	// For so long after its end an expired ticket is told from an unknown one.
	expiredMemory = 5 * time.Second
	// No ticket lives longer. What would be kept for days is a session, not a ticket.
	maxLifetime = time.Hour
	// How many places a shard gets at most.
	placesAtOnce = 64
	// What one Put looks through for expired entries when the store is full.
	retireAtOnce = 64
)

var (
	errKeyKnown = errors.New("memory store: the key was put before")
	errTooLarge = fmt.Errorf("memory store: the grant is larger than %d bytes", chunkSize)
	errTooLong  = fmt.Errorf("memory store: the grant expires later than %v from now", maxLifetime)
)

// NewMemoryStore returns an empty store; nil options are the defaults.
func NewMemoryStore(opts *MemoryOptions) *MemoryStore {
	m := &MemoryStore{max: DefaultMaxOutstanding, base: time.Now(), shards: make([]memoryShard, shardCount())}
	if opts != nil && opts.MaxOutstanding > 0 {
		m.max = int64(opts.MaxOutstanding)
	}
	m.now = func() (time.Duration, time.Time) {
		now := time.Now()
		return now.Sub(m.base), now
	}
	m.due.init()
	return m
}

// Put keeps g under key until g.ExpiresAt. It returns ErrFull at MaxOutstanding, and an error for a
// key that was put before and for a grant that expires more than an hour from now.
func (m *MemoryStore) Put(_ context.Context, key Key, g Grant) error {
	return m.put(&key.id, &g, false)
}

// Take returns the grant under key to the first caller until it expires.
func (m *MemoryStore) Take(_ context.Context, key Key) (g Grant, err error) {
	err = m.take(&key.id, &g)
	return g, err
}

// put is Put. An ID that is fresh is that of a ticket that was made for this one call: as long as
// crypto/rand does not repeat itself nobody can have put it before, and to look for it in every
// generation is what costs the most where many lie unused.
func (m *MemoryStore) put(id *[32]byte, g *Grant, fresh bool) error {
	size := entrySize(g)
	if size >= chunkSize {
		return errTooLarge
	}
	// On the way that every ticket goes there is no look at the clock: MintedAt is near enough to
	// tell when there is something to drop, and the deadline is in the grant.
	lifetime := g.ExpiresAt.Sub(g.MintedAt)
	if lifetime > maxLifetime || m.due.before(g.MintedAt.Sub(m.base)) {
		now, wall := m.now()
		m.dropDead(now)
		// Where MintedAt was not filled in, a ticket lives from now.
		if lifetime = min(lifetime, g.ExpiresAt.Sub(wall)); lifetime > maxLifetime {
			return errTooLong
		}
	}
	deadline := g.ExpiresAt.Sub(m.base)
	shard := m.shard(id)
	shard.mu.Lock()
	for shard.places == 0 && !m.reserve(shard) {
		shard.mu.Unlock()
		if !m.giveBack() && !m.retire(shard) && m.count.Load() >= m.max {
			return ErrFull
		}
		shard.mu.Lock()
	}
	if !fresh {
		if known, _ := shard.find(id); known != nil {
			shard.mu.Unlock()
			return errKeyKnown
		}
	}
	shard.places--
	gen, opened := shard.generation(classOf(lifetime), deadline)
	gen.add(id, deadline, g, size)
	shard.mu.Unlock()
	if opened {
		m.due.lower(gen.dropAt())
	}
	return nil
}

// take is Take. g is zero, and stays so where there is an error.
func (m *MemoryStore) take(id *[32]byte, g *Grant) error {
	now, wall := m.now()
	m.dropDead(now)
	shard := m.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	gen, position := shard.find(id)
	if gen == nil {
		return ErrUnknown
	}
	e := gen.entry(position)
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
	gen.use(position)
	return nil
}

// The IDs are SHA-256: any bytes of them are evenly spread, and nobody can choose them.
func (m *MemoryStore) shard(id *[32]byte) *memoryShard {
	return &m.shards[int(id[0])&(len(m.shards)-1)]
}

func hashOf(id *[32]byte) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// reserve gets the shard, which is locked, places for more entries, or says that there are none left.
// Many at a time while there are many, so that processors seldom meet at the one count.
func (m *MemoryStore) reserve(shard *memoryShard) bool {
	for {
		n := m.count.Load()
		if n >= m.max {
			return false
		}
		got := min(max((m.max-n)/int64(len(m.shards)), 1), placesAtOnce)
		if m.count.CompareAndSwap(n, n+got) {
			shard.places = got
			return true
		}
	}
}

// giveBack takes from all shards the places that they have not used, and reports whether there were
// any.
func (m *MemoryStore) giveBack() bool {
	any := false
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		any = any || s.places > 0
		m.count.Add(-s.places)
		s.places = 0
		s.mu.Unlock()
	}
	return any
}

// retire takes expired entries off the count, beginning with the shard that wants to grow, and
// reports whether there were any. They stay where they are until their generation is dropped: only
// a store that is full has to know of them one by one.
func (m *MemoryStore) retire(first *memoryShard) bool {
	now, _ := m.now()
	retireIn := func(s *memoryShard) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, gen := range s.generations {
			n += gen.retire(now, retireAtOnce-n)
		}
		m.count.Add(int64(-n))
		return n > 0
	}
	if retireIn(first) {
		return true
	}
	for i := range m.shards {
		if retireIn(&m.shards[i]) {
			return true
		}
	}
	return false
}

// dropDead drops every generation whose time is over, in all shards: one call is enough to empty a
// store that nobody has used for a while.
func (m *MemoryStore) dropDead(now time.Duration) {
	if !m.due.passed(now) {
		return
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		dropped := 0
		kept := s.generations[:0]
		for _, gen := range s.generations {
			if now > gen.dropAt() {
				dropped += gen.n - gen.retired
				continue
			}
			kept = append(kept, gen)
			m.due.lower(gen.dropAt())
		}
		clear(s.generations[len(kept):])
		s.generations = kept
		s.mu.Unlock()
		m.count.Add(int64(-dropped))
	}
}
