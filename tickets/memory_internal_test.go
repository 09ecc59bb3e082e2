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

// Suspend stops the monotonic clock (golang/go#24595), and setting the time moves the wall clock.
// Neither gives a ticket more than its time. HOSTILE S23.
func TestConsume_ExpiredByEitherClock(t *testing.T) {
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
				m.now = func() (time.Duration, time.Time) {
					return mono + row.mono, wall.Round(0).Add(row.wall)
				}
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

// held returns what a store and its issuer hold: generations, tickets in them, and sessions.
func held(m *MemoryStore, i *Issuer) (generations, tickets, sessions int) {
	for s := range m.shards {
		for _, gen := range m.shards[s].generations {
			if gen != nil {
				generations++
				tickets += gen.index.len()
			}
		}
	}
	return generations, tickets, len(i.limiter.this) + len(i.limiter.last)
}

// Neither the store, nor its count, nor the limiter keeps anything of expired tickets.
func TestMemoryStore_DropsExpired(t *testing.T) {
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
				time.Sleep(2 * time.Second)
			}
		}
		generations, tickets, sessions := held(m, i)
		require.Greater(t, generations, memoryShards)
		require.Equal(t, 20000, tickets)
		require.Equal(t, 999, sessions)
		require.EqualValues(t, 20000, m.count.Load())
		time.Sleep(2 * DefaultTTL)
		mint(Grant{SessionID: "s"}) // one call, in one shard
		generations, tickets, sessions = held(m, i)
		assert.Equal(t, 1, generations)
		assert.Equal(t, 1, tickets)
		assert.Equal(t, 1, sessions)
		assert.EqualValues(t, 1, m.count.Load())
	})
}

// Under a steady load, a store holds the tickets of their lifetime, the 5 s after, and a third
// more.
func TestMemoryStore_SteadyLoad(t *testing.T) {
	lifetimes := []time.Duration{
		time.Millisecond, time.Second, 8 * time.Second, 30 * time.Second, time.Minute, time.Hour,
	}
	for _, ttl := range lifetimes {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemoryStore(nil)
			i, err := NewIssuer(m, &IssuerOptions{TTL: ttl})
			require.NoError(t, err)
			kept := ttl + expiredMemory
			step := kept / 1000
			most := 0
			for n := range 6000 {
				_, err := i.Mint(t.Context(), Grant{})
				require.NoError(t, err)
				time.Sleep(step)
				if n%50 == 0 {
					_, tickets, _ := held(m, i)
					most = max(most, tickets)
				}
			}
			assert.LessOrEqual(t, most, 1340, "with a TTL of %v", ttl)
		})
	}
}

// One ticket with a long lifetime keeps those that are put with it, and none of those after it.
func TestMemoryStore_LongTicketKeepsNoLaterOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemoryStore(nil)
		put := func(n int, life time.Duration) {
			for range n {
				now := time.Now()
				g := Grant{MintedAt: now, ExpiresAt: now.Add(life)}
				require.NoError(t, m.Put(t.Context(), newTicket().Key(), g))
			}
		}
		put(500, time.Hour)
		for range 2000 {
			put(10, 30*time.Second)
			time.Sleep(time.Second)
		}
		tickets := 0
		for s := range m.shards {
			for _, gen := range m.shards[s].generations {
				if gen != nil {
					tickets += gen.index.len()
				}
			}
		}
		// The first generation lasts until the second turn: a third of an hour.
		assert.LessOrEqual(t, tickets, 500+10*(20*60+60))
	})
}

// A ticket that is used at once leaves only its ID, however large its grant is.
func TestMemoryStore_UsedAtOnceKeepsNoGrant(t *testing.T) {
	m := NewMemoryStore(nil)
	i, err := NewIssuer(m, nil)
	require.NoError(t, err)
	g := Grant{UserID: strings.Repeat("u", 8<<10)}
	for range 1000 {
		ticket, err := i.Mint(t.Context(), g)
		require.NoError(t, err)
		_, err = i.Consume(t.Context(), ticket)
		require.NoError(t, err)
		_, err = i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, ErrUsed)
	}
	held := 0
	for s := range m.shards {
		for _, chunk := range m.shards[s].newest().chunks {
			held += len(chunk)
		}
	}
	assert.Equal(t, 1000*padded(entryGrant), held)
}

func TestMemoryStore_BytesPerTicket(t *testing.T) {
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
			g := Grant{SessionID: string(session), Provider: "oidc", UserID: user}
			_, err := i.Mint(context.Background(), g)
			require.NoError(t, err)
		}
		assert.LessOrEqual(t, (live()-before)/n, int64(260), "bytes per outstanding ticket")
		time.Sleep(time.Minute)
		_, err = i.Mint(context.Background(), Grant{SessionID: "s"})
		require.NoError(t, err)
		assert.LessOrEqual(t, (live()-before)/n, int64(8), "bytes per expired ticket")
		runtime.KeepAlive(m)
		runtime.KeepAlive(i)
	})
}

// The oldest entry that is counted may be the last of a chunk that another one now follows.
func TestGeneration_UncountContinuesInTheNextChunk(t *testing.T) {
	gen := generation{index: newIndex(0)}
	large := Grant{SessionID: strings.Repeat("s", 8<<10)}
	size := entrySize(&large)
	for n := range 30 {
		id := [32]byte{8: byte(n)}
		require.True(t, gen.add(&id, time.Duration(n), &large, size))
		require.Zero(t, gen.uncount(time.Duration(n), 10), "entry %d is valid", n)
		now := time.Duration(n) + 1
		require.Equal(t, 1, gen.uncount(now, 10), "entry %d, in chunk %d", n, len(gen.chunks))
		require.Zero(t, gen.uncount(time.Hour, 10))
	}
	require.Greater(t, len(gen.chunks), 2)
	require.Zero(t, gen.counted)
}

func TestGeneration_UncountStopsAtTheEnd(t *testing.T) {
	gen := generation{index: newIndex(0)}
	g := Grant{SessionID: "s"}
	for n := range 3 {
		id := [32]byte{8: byte(n)}
		require.True(t, gen.add(&id, 0, &g, entrySize(&g)))
	}
	require.Equal(t, 2, gen.uncount(1, 2))
	require.Equal(t, 1, gen.uncount(1, 2))
	require.Zero(t, gen.uncount(1, 2))
}

// A generation refuses tickets before its positions run out.
func TestGeneration_RefusesWhenPositionsRunOut(t *testing.T) {
	g := Grant{SessionID: "s"}
	full := make([]byte, chunkSize)
	for _, row := range []struct {
		chunks int
		want   bool
	}{{maxChunks - 1, true}, {maxChunks, false}} {
		gen := generation{index: newIndex(0), chunks: make([][]byte, row.chunks)}
		gen.chunks[row.chunks-1] = full
		require.Equal(t, row.want, gen.add(new([32]byte), 0, &g, entrySize(&g)))
	}
}

// The largest grant is returned whole, and one byte more is refused.
func TestMemoryStore_LargestGrant(t *testing.T) {
	m := NewMemoryStore(&MemoryOptions{}) // which is no bound of 0
	now := time.Now()
	g := Grant{MintedAt: now, ExpiresAt: now.Add(time.Second)}
	g.SessionID = strings.Repeat("s", maxEntry-entrySize(&g)-2) // two more bytes of its length
	require.Equal(t, maxEntry, entrySize(&g))
	require.NoError(t, m.Put(t.Context(), Key{}, g))
	small := Key{id: [32]byte{8: 1}} // in the same shard
	require.NoError(t, m.Put(t.Context(), small, Grant{ExpiresAt: now.Add(time.Second)}))
	_, err := m.Take(t.Context(), small)
	require.NoError(t, err)
	got, err := m.Take(t.Context(), Key{})
	require.NoError(t, err)
	require.Equal(t, g.SessionID, got.SessionID)
	g.SessionID += "s"
	require.ErrorIs(t, m.Put(t.Context(), Key{id: [32]byte{1}}, g), errTooLarge)
}

// Lengths whose sum overflows, and a second of too many nanoseconds, are refused.
func TestGrant_DecodeRefusesOverflow(t *testing.T) {
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

// What decode accepts is what appendGrant makes of it.
func FuzzDecodeGrant(f *testing.F) {
	f.Add(appendGrant(nil, &Grant{}))
	f.Add(appendGrant(nil, &Grant{
		SessionID: strings.Repeat("s", 300), Provider: "p", UserID: "u", Endpoint: "/", Data: "d",
		StartedAt: time.Unix(1, 2),
	}))
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

// Take reads the clock before it has the lock. A full store that takes the entry off the count in
// between must not make later Puts read in the middle of one.
func TestMemoryStore_UncountBetweenClockAndLock(t *testing.T) {
	m := NewMemoryStore(&MemoryOptions{MaxOutstanding: 2})
	at := time.Duration(0)
	hook := func() {}
	m.now = func() (time.Duration, time.Time) {
		now, h := at, hook
		hook = func() {}
		h()
		return now, m.base.Add(now)
	}
	put := func(shard, n byte, life time.Duration) error {
		key := Key{id: [32]byte{0: shard, 8: n, 9: n}}
		minted := m.base.Add(at)
		return m.Put(context.Background(), key, Grant{
			SessionID: strings.Repeat("s", 200), MintedAt: minted, ExpiresAt: minted.Add(life),
		})
	}
	require.NoError(t, put(1, 1, time.Second))
	require.NoError(t, put(1, 2, time.Second))
	at = time.Second - 1
	hook = func() {
		at = time.Second + 1
		assert.NoError(t, put(2, 3, time.Second))
	}
	_, err := m.Take(context.Background(), Key{id: [32]byte{0: 1, 8: 2, 9: 2}})
	require.NoError(t, err)
	m.max = 1 << 20 // room, and then full again
	for n := byte(10); n < 14; n++ {
		require.NoError(t, put(1, n, time.Second))
	}
	m.max = m.count.Load()
	at += 500 * time.Millisecond
	for n := range 20 {
		require.ErrorIs(t, put(3, byte(n), time.Minute), ErrFull, "nothing has expired")
	}
}

func TestMemoryStore_BoundHoldsInOneShard(t *testing.T) {
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
