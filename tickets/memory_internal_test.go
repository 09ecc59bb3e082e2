package tickets

import (
	"context"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A machine that sleeps stops the monotonic clock (golang/go#24595) and a clock that is set moves
// the wall clock. Neither gives a ticket more than its time.
func TestDeadWhenEitherClockSaysSo(t *testing.T) {
	const ttl = 30 * time.Second
	for name, row := range map[string]struct {
		mono, wall time.Duration // how far each has moved
		want       error
	}{
		"neither":                         {0, 0, nil},
		"both to the end":                 {ttl, ttl, nil},
		"suspended to the very end":       {0, ttl, nil},
		"suspended 1 ns longer":           {0, ttl + 1, ErrExpired},
		"suspended 60 s":                  {0, 60 * time.Second, ErrExpired},
		"suspended a year":                {0, 365 * 24 * time.Hour, ErrExpired},
		"wall clock set back, in time":    {ttl, -time.Hour, nil},
		"wall clock set back, 1 ns late":  {ttl + 1, -time.Hour, ErrExpired},
		"wall clock set ahead":            {1, time.Hour, ErrExpired},
		"wall clock stands still, 1 late": {ttl + 1, 0, ErrExpired},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMemoryStore(nil)
				i, err := NewIssuer(m, nil)
				require.NoError(t, err)
				ticket, err := i.Mint(t.Context(), Grant{UserID: "u1"})
				require.NoError(t, err)
				mono, wall := m.now()
				m.now = func() (time.Duration, time.Time) { return mono + row.mono, wall.Round(0).Add(row.wall) }
				got, err := i.Consume(t.Context(), ticket)
				if row.want != nil {
					require.ErrorIs(t, err, row.want)
					require.ErrorContains(t, err, "expired")
					return
				}
				require.NoError(t, err)
				assert.Equal(t, "u1", got.UserID)
			})
		})
	}
}

// Nothing is kept of tickets that are over: neither in the store nor in the shares, nor is it
// counted.
func TestEverythingIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemoryStore(nil)
		i, err := NewIssuer(m, nil)
		require.NoError(t, err)
		mint := func(g Grant) {
			_, err := i.Mint(t.Context(), g)
			require.NoError(t, err)
		}
		for n := range 20000 {
			mint(Grant{SessionID: strings.Repeat("s", n%1000)})
			if n%2000 == 0 {
				time.Sleep(time.Second)
			}
		}
		held := func() (generations, sessions int, counted int64) {
			counted = m.count.Load()
			for s := range m.shards {
				counted -= m.shards[s].places
				generations += len(m.shards[s].generations)
				if i.shares.shards[s].cur != nil || i.shares.shards[s].prev != nil {
					sessions++
				}
			}
			return
		}
		generations, sessions, counted := held()
		require.Greater(t, generations, shardCount())
		require.Equal(t, shardCount(), sessions)
		require.EqualValues(t, 20000, counted)
		time.Sleep(DefaultTTL + expiredMemory + widthOf(classOf(DefaultTTL)) + time.Millisecond)
		mint(Grant{SessionID: "s"}) // one call, in one shard
		generations, sessions, counted = held()
		assert.Equal(t, 1, generations)
		assert.Equal(t, 1, sessions)
		assert.EqualValues(t, 1, counted)
	})
}

// A few long tickets do not keep many short ones in memory.
func TestLongTicketsHoldNoShortOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemoryStore(nil)
		put := func(n int, life time.Duration) {
			for range n {
				now := time.Now()
				_, key := newTicket()
				require.NoError(t, m.Put(t.Context(), key, Grant{MintedAt: now, ExpiresAt: now.Add(life)}))
			}
		}
		put(500, time.Hour)
		put(5000, 30*time.Second)
		put(5000, time.Second)
		time.Sleep(time.Minute)
		put(1, time.Hour)
		held := 0
		for s := range m.shards {
			for _, gen := range m.shards[s].generations {
				held += gen.n
			}
		}
		assert.Equal(t, 501, held)
	})
}

// However long it runs, there is never much to look through.
func TestFewGenerations(t *testing.T) {
	for _, ttl := range []time.Duration{time.Millisecond, time.Second, 8 * time.Second, 30 * time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemoryStore(nil)
			i, err := NewIssuer(m, &IssuerOptions{TTL: ttl})
			require.NoError(t, err)
			most := 0
			for range 20000 {
				_, err := i.Mint(t.Context(), Grant{})
				require.NoError(t, err)
				time.Sleep(max(ttl, 5*time.Second) / 2000)
				for s := range m.shards {
					most = max(most, len(m.shards[s].generations))
				}
			}
			assert.LessOrEqual(t, most, 8, "with a TTL of %v", ttl)
		})
	}
}

func TestOutstandingTicketTakesLittleMemory(t *testing.T) {
	live := func() int64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	synctest.Test(t, func(t *testing.T) {
		const n = 200_000
		before := live()
		m := NewMemoryStore(nil)
		i, err := NewIssuer(m, nil)
		require.NoError(t, err)
		session, user := []byte(strings.Repeat("s", 32)), strings.Repeat("u", 16)
		for k := range n {
			for d := range 8 {
				session[d] = byte(k >> (4 * d) & 15)
			}
			_, err := i.Mint(context.Background(), Grant{SessionID: string(session), Provider: "oidc", UserID: user})
			require.NoError(t, err)
		}
		assert.LessOrEqual(t, (live()-before)/n, int64(250), "bytes per outstanding ticket")
		time.Sleep(time.Minute)
		_, err = i.Mint(context.Background(), Grant{SessionID: "s"})
		require.NoError(t, err)
		assert.LessOrEqual(t, (live()-before)/n, int64(8), "bytes per expired ticket")
		runtime.KeepAlive(m)
		runtime.KeepAlive(i)
	})
}

func TestClassesOfLifetime(t *testing.T) {
	for lifetime, want := range map[time.Duration]int{
		-time.Hour: 0, 0: 0, 1: 0, 8 * time.Second: 0, 8*time.Second + 1: 1, 30 * time.Second: 1, 32 * time.Second: 1,
		32*time.Second + 1: 2, 128 * time.Second: 2, time.Hour: 5,
	} {
		assert.Equal(t, want, classOf(lifetime), "%v", lifetime)
	}
	assert.Equal(t, 8*time.Second, widthOf(1))
}

// The place where retire stopped may be the end of a chunk that has since been followed by another.
func TestRetireGoesOnInTheNextChunk(t *testing.T) {
	var gen generation
	large := Grant{SessionID: strings.Repeat("s", 8<<10)}
	size := entrySize(&large)
	for n := range 30 {
		id := [32]byte{8: byte(n)}
		gen.add(&id, time.Duration(n), &large, size)
		require.Equal(t, 1, gen.retire(time.Duration(n)+1, 10), "entry %d, in chunk %d", n, len(gen.chunks))
		require.Zero(t, gen.retire(time.Hour, 10))
	}
	require.Greater(t, len(gen.chunks), 2)
	require.Equal(t, 30, gen.retired)
}

// What is expired to the last entry is passed to its end, and not beyond.
func TestRetireEnds(t *testing.T) {
	var gen generation
	g := Grant{SessionID: "s"}
	for n := range 3 {
		id := [32]byte{8: byte(n)}
		gen.add(&id, 0, &g, entrySize(&g))
	}
	require.Equal(t, 2, gen.retire(1, 2))
	require.Equal(t, 1, gen.retire(1, 2))
	require.Zero(t, gen.retire(1, 2))
}

// A generation stops taking tickets before its positions run out.
func TestGenerationHasRoom(t *testing.T) {
	const most = maxPositions / chunkUnits
	require.True(t, (&generation{chunks: make([][]byte, most-1)}).hasRoom())
	require.False(t, (&generation{chunks: make([][]byte, most)}).hasRoom())
}

// The largest grant that fits comes back whole, and the next one is refused.
func TestLargestGrant(t *testing.T) {
	m := NewMemoryStore(&MemoryOptions{}) // which is no bound of 0
	now := time.Now()
	g := Grant{MintedAt: now, ExpiresAt: now.Add(time.Second)}
	g.SessionID = strings.Repeat("s", chunkSize-1-entrySize(&g)-2) // two more bytes of its length
	require.Equal(t, chunkSize-1, entrySize(&g))
	require.NoError(t, m.Put(t.Context(), Key{}, g))
	got, err := m.Take(t.Context(), Key{})
	require.NoError(t, err)
	require.Equal(t, g.SessionID, got.SessionID)
	g.SessionID += "s"
	require.ErrorIs(t, m.Put(t.Context(), Key{id: [32]byte{1}}, g), errTooLarge)
}

// Lengths that overflow in sum, and a second of too many nanoseconds, are no grant.
func TestDecodeRefusesWhatOverflows(t *testing.T) {
	var g Grant
	half := binary.AppendUvarint(nil, 1<<63)
	b := append(append(append([]byte{}, half...), half...), 0, 0, 0)
	require.Error(t, g.decode(append(b, make([]byte, 4*timeSize)...)))
	late := appendGrant(nil, &Grant{})
	binary.LittleEndian.PutUint32(late[len(late)-4:], 1e9)
	require.Error(t, g.decode(late))
	binary.LittleEndian.PutUint32(late[len(late)-4:], 1e9-1)
	require.NoError(t, g.decode(late))
}

// Whatever decode takes is what appendGrant makes of it.
func FuzzDecodeGrant(f *testing.F) {
	f.Add(appendGrant(nil, &Grant{}))
	f.Add(appendGrant(nil, &Grant{SessionID: strings.Repeat("s", 300), Provider: "p", UserID: "u", Endpoint: "/", Data: "d", StartedAt: time.Unix(1, 2)}))
	f.Add(append([]byte{0x80, 0}, appendGrant(nil, &Grant{})[1:]...)) // 0, in two bytes
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte(nil))
	late := appendGrant(nil, &Grant{})
	late[len(late)-1] = 0xff // 4 thousand million nanoseconds
	f.Add(late)
	f.Fuzz(func(t *testing.T, b []byte) {
		var g Grant
		if err := g.decode(b); err != nil {
			require.Zero(t, g)
			return
		}
		require.Equal(t, b, appendGrant(nil, &g))
		require.Len(t, b, grantSize(&g))
	})
}

// Take looks at the clock before it has the lock. A full store that retires the
// entry in between made later Puts read in the middle of one, and panic.
func TestRetireBetweenClockAndLock(t *testing.T) {
	m := NewMemoryStore(&MemoryOptions{MaxOutstanding: 2})
	base := m.base
	at := time.Duration(0)
	hook := func() {}
	m.now = func() (time.Duration, time.Time) { n := at; h := hook; hook = func() {}; h(); return n, base.Add(n) }
	key := func(shard, n byte) Key { var k Key; k.id[0], k.id[8], k.id[9] = shard, n, n; return k }
	put := func(k Key, life time.Duration) error {
		return m.Put(context.Background(), k, Grant{SessionID: strings.Repeat("s", 200), MintedAt: base.Add(at), ExpiresAt: base.Add(at + life)})
	}
	put(key(1, 1), time.Second)
	put(key(1, 2), time.Second)
	at = time.Second - 1
	hook = func() { at = time.Second + 1; t.Log("put in another shard, store full:", put(key(2, 3), time.Second)) }
	_, err := m.Take(context.Background(), key(1, 2))
	t.Log("take:", err)
	m.max = 1 << 20 // room, then full again
	for i := byte(10); i < 14; i++ {
		put(key(1, i), time.Second)
	}
	m.giveBack()
	m.max = m.count.Load()
	at += 500 * time.Millisecond
	accepted := 0
	for i := range 20 {
		if put(key(3, byte(i)), time.Minute) == nil {
			accepted++
		}
	}
	if accepted > 0 {
		t.Fatalf("a full store (nothing expired) took %d more; count %d", accepted, m.count.Load())
	}
}

// No shard gets more places than there are.
func TestBoundHoldsInOneShard(t *testing.T) {
	now := time.Now()
	for _, most := range []int{1, 63, 64, 65, 5000} {
		m := NewMemoryStore(&MemoryOptions{MaxOutstanding: most})
		for n := range most + 1 {
			key := Key{id: [32]byte{8: byte(n), 9: byte(n >> 8)}}
			err := m.Put(t.Context(), key, Grant{MintedAt: now, ExpiresAt: now.Add(time.Minute)})
			require.Equal(t, n == most, err != nil, "%d of %d: %v", n+1, most, err)
		}
	}
}
