package tickets_test

import (
	"context"
	"encoding/base64"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

func TestMemoryStore_Contract(t *testing.T) {
	newStore := func() (tickets.Store, error) { return tickets.NewMemoryStore(nil), nil }
	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { storetest.Run(t, newStore) })
	})
	t.Run("in real time", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, newStore)
	})
	t.Run("bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			storetest.Run(t, func() (tickets.Store, error) {
				return tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 300}), nil
			})
		})
	})
}

func TestMemoryStore_Bound(t *testing.T) {
	assert.Equal(t, 1_048_576, tickets.DefaultMaxOutstanding)
	synctest.Test(t, func(t *testing.T) {
		const most = 1000
		i := mustIssuer(
			t,
			tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: most}),
			nil,
		)
		var minted []tickets.Ticket
		fill := func(n int) {
			t.Helper()
			for range n {
				minted = append(minted, mustMint(t, i, tickets.Grant{SessionID: "", UserID: "u1"}))
			}
			_, err := i.Mint(t.Context(), tickets.Grant{})
			require.ErrorIs(t, err, tickets.ErrFull)
			require.NotErrorIs(t, err, tickets.ErrInvalid)
		}
		fill(most)
		_, err := i.Consume(t.Context(), minted[0])
		require.NoError(t, err)
		fill(0) // used ones count
		time.Sleep(20 * time.Second)
		fill(0)
		for _, ticket := range minted[1:500] {
			_, err := i.Consume(t.Context(), ticket)
			require.NoError(t, err, "a valid ticket was evicted")
		}
		time.Sleep(10 * time.Second)
		fill(0)
		time.Sleep(time.Nanosecond)
		// Expired tickets do not count, although they are remembered as expired.
		expired := minted[500:]
		minted = nil
		fill(most)
		for _, ticket := range expired {
			_, err := i.Consume(t.Context(), ticket)
			require.ErrorIs(t, err, tickets.ErrExpired)
		}
		for _, ticket := range minted {
			_, err := i.Consume(t.Context(), ticket)
			require.NoError(t, err)
		}
		for range 5 { // and again, while older ones are dropped
			time.Sleep(30*time.Second + 1)
			minted = nil
			fill(most)
		}
		time.Sleep(time.Hour)
		fill(most)
	})
}

// Each of many is found once, in whatever order and however long after.
func TestMemoryStore_FindsEachOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, tickets.NewMemoryStore(nil), nil)
		all := make([]tickets.Ticket, 30_000)
		user := func(n int) string { return strings.Repeat("u", n%100) }
		for n := range all {
			all[n] = mustMint(t, i, tickets.Grant{UserID: user(n)})
			if n%1000 == 0 {
				time.Sleep(time.Second - time.Nanosecond) // several generations
			}
		}
		for _, n := range rand.Perm(len(all)) {
			g, err := i.Consume(t.Context(), all[n])
			require.NoError(t, err, n)
			require.Equal(t, user(n), g.UserID)
		}
		for _, ticket := range all {
			_, err := i.Consume(t.Context(), ticket)
			require.ErrorIs(t, err, tickets.ErrUsed)
		}
	})
}

// The bound is exact: a mint below it succeeds, also while another takes expired tickets off the
// count.
func TestMemoryStore_BoundIsExactConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, minting = 400, 8
		i := mustIssuer(
			t,
			tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: most}),
			nil,
		)
		for range 300 {
			var wg sync.WaitGroup
			for range minting {
				wg.Go(func() {
					for range most / minting {
						_, err := i.Mint(t.Context(), tickets.Grant{})
						assert.NoError(t, err)
					}
				})
			}
			wg.Wait()
			_, err := i.Mint(t.Context(), tickets.Grant{})
			require.ErrorIs(t, err, tickets.ErrFull)
			time.Sleep(tickets.DefaultTTL + time.Nanosecond)
		}
	})
}

// A mint that a full store refuses does not count for the session.
func TestMint_FullStoreCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(
			t,
			tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1}),
			&tickets.IssuerOptions{MaxPerSession: 1},
		)
		mustMint(t, i, tickets.Grant{})
		for range 3 {
			_, err := i.Mint(t.Context(), tickets.Grant{SessionID: "s1"})
			require.ErrorIs(t, err, tickets.ErrFull)
		}
		time.Sleep(30*time.Second + 1)
		mustMint(t, i, tickets.Grant{SessionID: "s1"})
	})
}

// Of two that put at once for the last place, one succeeds.
func TestMemoryStore_LastPlaceHasOneWinner(t *testing.T) {
	now := time.Now()
	g := tickets.Grant{MintedAt: now, ExpiresAt: now.Add(time.Minute)}
	random := rand.New(rand.NewPCG(1, 1))
	const stores = 5000
	var all [stores]*tickets.MemoryStore
	var keys [2]tickets.Key
	for n := range all {
		all[n] = tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1})
	}
	for n := range keys {
		keys[n] = randomTicket(random).Key()
	}
	var put [stores]atomic.Int32
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			for n, store := range all {
				arrived.Add(1)
				for arrived.Load() < int64(len(keys)*(n+1)) {
					runtime.Gosched() // a channel would let them go one after the other
				}
				if err := store.Put(context.Background(), key, g); err == nil {
					put[n].Add(1)
				} else {
					assert.ErrorIs(t, err, tickets.ErrFull)
				}
			}
		})
	}
	wg.Wait()
	for n := range put {
		require.EqualValues(t, 1, put[n].Load())
	}
}

func TestMemoryStore_PutRefusesBadGrants(t *testing.T) {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1})
	ctx := context.Background()
	key := tickets.Ticket(strings.Repeat("A", 43)).Key()
	now := time.Now()
	assert.ErrorContains(
		t,
		store.Put(ctx, key, tickets.Grant{ExpiresAt: now.Add(2 * time.Hour)}),
		"1h0m0s",
	)
	assert.ErrorContains(
		t,
		store.Put(
			ctx,
			key,
			tickets.Grant{MintedAt: now, ExpiresAt: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
		),
		"1h0m0s",
	)
	assert.ErrorContains(
		t,
		store.Put(
			ctx,
			key,
			tickets.Grant{
				MintedAt:  now,
				ExpiresAt: now.Add(time.Second),
				Data:      strings.Repeat("x", 64<<10),
			},
		),
		"65536 bytes",
	)
	_, err := store.Take(ctx, key)
	assert.ErrorIs(t, err, tickets.ErrUnknown)
	// Without MintedAt a ticket lives from now. None of the above took the only place.
	require.NoError(
		t,
		store.Put(ctx, key, tickets.Grant{UserID: "u1", ExpiresAt: now.Add(time.Minute).Round(0)}),
	)
	got, err := store.Take(ctx, key)
	require.NoError(t, err)
	assert.Equal(t, "u1", got.UserID)
	assert.True(t, got.MintedAt.IsZero())

	store = tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 2})
	g := tickets.Grant{MintedAt: now, ExpiresAt: now.Add(time.Minute)}
	require.NoError(t, store.Put(ctx, key, g))
	assert.ErrorContains(t, store.Put(ctx, key, g), "put before")
	require.NoError(
		t,
		store.Put(ctx, tickets.Ticket(strings.Repeat("B", 43)).Key(), g),
		"a Put that was refused counts",
	)
}

// Where all sessions end at one instant, the last tickets live shorter and shorter. Generations
// begin more and more often, and none of them may be dropped before that instant.
func TestMemoryStore_KeepsTicketsThatExpireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		end := time.Now().Add(tickets.DefaultTTL)
		var all []tickets.Ticket
		for time.Now().Before(end) {
			all = append(all, mustMint(t, i, tickets.Grant{SessionExpiresAt: end}))
			time.Sleep(time.Second)
		}
		for n, ticket := range all {
			_, err := i.Consume(t.Context(), ticket)
			require.NoError(t, err, "minted after %d s", n)
		}
	})
}

// Random lifetimes in random order, against a map.
func TestMemoryStore_AgainstModel(t *testing.T) {
	type entry struct {
		key  tickets.Key
		g    tickets.Grant
		used bool
	}
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			store := tickets.NewMemoryStore(nil)
			ctx := context.Background()
			var all []*entry
			for n := range 4000 {
				switch random.IntN(5) {
				case 0, 1:
					life := []time.Duration{time.Millisecond, time.Second, 5 * time.Second,
						30 * time.Second, 10 * time.Minute, time.Hour}[random.IntN(6)]
					now := time.Now()
					e := &entry{key: randomTicket(random).Key(), g: tickets.Grant{
						SessionID: strings.Repeat(
							"s",
							random.IntN(2000),
						), Data: strings.Repeat("d", random.IntN(257)),
						MintedAt: now, ExpiresAt: now.Add(life),
					}}
					require.NoError(t, store.Put(ctx, e.key, e.g))
					all = append(all, e)
				case 2:
					time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
				case 3:
					if n%100 == 0 {
						time.Sleep(time.Duration(random.Int64N(int64(20 * time.Minute))))
					}
				default:
					if len(all) == 0 {
						continue
					}
					e := all[random.IntN(len(all))]
					if random.IntN(2) == 0 {
						e = all[len(all)-1]
					}
					got, err := store.Take(ctx, e.key)
					over := time.Since(e.g.ExpiresAt)
					switch {
					case over <= 0 && !e.used:
						require.NoError(t, err)
						assertSameGrant(t, e.g, got)
						e.used = true
					case over <= 0:
						require.ErrorIs(t, err, tickets.ErrUsed)
					case over <= 5*time.Second && !e.used:
						require.ErrorIs(t, err, tickets.ErrExpired)
					default:
						require.ErrorIs(t, err, tickets.ErrInvalid)
					}
				}
			}
		})
	}
}

func randomTicket(random *rand.Rand) tickets.Ticket {
	var secret [32]byte
	for n := range secret {
		secret[n] = byte(random.Uint32())
	}
	return tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:]))
}
