package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// A session that mints all at once may mint again as soon as these tickets have expired.
func TestMaxPerSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = tickets.DefaultTTL
		i := mustIssuer(t, nil, nil)
		g := tickets.Grant{SessionID: "s1", UserID: "u1"}
		for n := range 64 {
			ticket := mustMint(t, i, g)
			if n%2 == 0 { // used ones count
				_, err := i.Consume(t.Context(), ticket)
				require.NoError(t, err)
			}
		}
		refused := func(want time.Duration) {
			t.Helper()
			ticket, err := i.Mint(t.Context(), g)
			require.ErrorIs(t, err, tickets.ErrTooMany)
			require.NotErrorIs(t, err, tickets.ErrInvalid)
			require.Empty(t, string(ticket))
			var tooMany *tickets.TooManyError
			require.ErrorAs(t, err, &tooMany)
			require.GreaterOrEqual(t, tooMany.RetryAfter, want)
			require.Equal(t, want, tooMany.RetryAfter)
		}
		refused(ttl + 1)
		mustMint(t, i, tickets.Grant{SessionID: "s2"}) // every session has a limit of its own
		for range 200 {
			mustMint(t, i, tickets.Grant{UserID: "u1"}) // and without a session there is none
		}
		time.Sleep(ttl / 2)
		refused(ttl/2 + 1)
		time.Sleep(ttl / 2)
		refused(1) // at exactly TTL they are still valid
		time.Sleep(time.Nanosecond)
		for range 64 {
			mustMint(t, i, g)
		}
		refused(ttl + 1)
	})
}

func TestMaxPerSession_AmongManySessions(t *testing.T) {
	i := mustIssuer(t, nil, &tickets.IssuerOptions{MaxPerSession: 2})
	for _, want := range []error{nil, nil, tickets.ErrTooMany} {
		for n := range 5000 {
			_, err := i.Mint(t.Context(), tickets.Grant{SessionID: fmt.Sprint("s", n)})
			require.ErrorIs(t, err, want)
		}
	}
}

// Of few mints RetryAfter is exact. A nanosecond before it the session is refused, and then it is
// not.
func TestMaxPerSession_RetryAfterOfTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, &tickets.IssuerOptions{TTL: 10 * time.Second, MaxPerSession: 3})
		g := tickets.Grant{SessionID: "s1"}
		mustMint(t, i, g)
		time.Sleep(4*time.Second + 123456)
		mustMint(t, i, g)
		time.Sleep(time.Second)
		mustMint(t, i, g)
		var tooMany *tickets.TooManyError
		_, err := i.Mint(t.Context(), g)
		require.ErrorAs(t, err, &tooMany)
		require.Equal(t, 5*time.Second-123456+1, tooMany.RetryAfter)
		time.Sleep(tooMany.RetryAfter - 1)
		_, err = i.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrTooMany)
		time.Sleep(time.Nanosecond)
		mustMint(t, i, g)
	})
}

// A failed mint may have been the first of its session: what came after it still counts.
func TestMaxPerSession_FirstMintFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		store := &late{Store: tickets.NewMemoryStore(nil), first: 9 * time.Second}
		i := mustIssuer(t, store, &tickets.IssuerOptions{TTL: ttl, MaxPerSession: 2})
		g := tickets.Grant{SessionID: "s1"}
		go i.Mint(t.Context(), g) // fails after 9 s
		time.Sleep(5 * time.Second)
		mustMint(t, i, g)
		time.Sleep(4*time.Second + 1)
		mustMint(t, i, g)
		time.Sleep(time.Second) // now the failed one would have expired, but nothing else has
		_, err := i.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrTooMany)
	})
}

// late fails the first Put after a time.
type late struct {
	tickets.Store
	first time.Duration
	calls atomic.Int32
}

func (l *late) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	if l.calls.Add(1) == 1 {
		time.Sleep(l.first)
		return errSlow
	}
	return l.Store.Put(ctx, key, g)
}

// A session that keeps to RetryAfter is never refused twice in a row, and waits at most one TTL.
func TestMaxPerSession_RetryAfterIsAnUpperBound(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 5))
			const ttl = 10 * time.Second
			i := mustIssuer(t, nil, &tickets.IssuerOptions{TTL: ttl, MaxPerSession: 3})
			g := tickets.Grant{SessionID: "s1"}
			for range 300 {
				_, err := i.Mint(t.Context(), g)
				if err != nil {
					var tooMany *tickets.TooManyError
					require.ErrorAs(t, err, &tooMany)
					require.Positive(t, tooMany.RetryAfter)
					require.LessOrEqual(t, tooMany.RetryAfter, ttl+1)
					time.Sleep(tooMany.RetryAfter)
					mustMint(t, i, g)
				}
				time.Sleep(time.Duration(random.Int64N(int64(ttl / 2))))
			}
		})
	}
}

// minted returns how many of these mints are at most so long ago.
func minted(at []time.Time, age time.Duration) (n int) {
	for _, t := range at {
		if time.Since(t) <= age {
			n++
		}
	}
	return n
}

// Against a list of all mints: never more than the limit within one TTL, and no refusal unless
// there were as many within two.
func TestMaxPerSession_AgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			ttl := time.Duration(1+random.IntN(5000)) * time.Millisecond
			limit := 1 + random.IntN(5)
			down := errors.New("down")
			store := &spy{Store: tickets.NewMemoryStore(nil)}
			opts := &tickets.IssuerOptions{TTL: ttl, MaxPerSession: limit}
			i := mustIssuer(t, store, opts)
			all := map[string][]time.Time{}
			for range 1500 {
				session := fmt.Sprint(random.IntN(6))
				store.put = nil
				if random.IntN(4) == 0 {
					store.put = down
				}
				_, err := i.Mint(t.Context(), tickets.Grant{SessionID: session})
				switch {
				case errors.Is(err, tickets.ErrTooMany):
					require.GreaterOrEqual(t, minted(all[session], 2*ttl), limit, "refused")
				case errors.Is(err, down):
					require.Less(t, minted(all[session], ttl), limit)
				default:
					require.NoError(t, err)
					require.Less(t, minted(all[session], ttl), limit, "one too many")
					all[session] = append(all[session], time.Now())
				}
				switch random.IntN(10) {
				case 0:
					time.Sleep(ttl)
				case 1:
					time.Sleep(time.Duration(random.Int64N(int64(3 * ttl))))
				case 2, 3, 4:
					time.Sleep(time.Duration(random.Int64N(int64(ttl / 3))))
				}
			}
		})
	}
}

// slowStore answers each Put after a random time, half of them with an error.
type slowStore struct {
	tickets.Store
	random *rand.Rand
	ttl    time.Duration
}

var errSlow = errors.New("timeout")

func (s slowStore) Put(context.Context, tickets.Key, tickets.Grant) error {
	wait, fails := time.Duration(s.random.Int64N(int64(2*s.ttl))), s.random.IntN(2) == 0
	time.Sleep(wait)
	if fails {
		return errSlow
	}
	return nil
}

// Mints may hang for longer than a ticket lives, and half of them fail. A hanging mint counts, and
// one that has failed does not.
func TestMaxPerSession_AgainstModelWithASlowStore(t *testing.T) {
	type attempt struct {
		at              time.Time
		failed, refused atomic.Bool
	}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			ttl := time.Duration(20+random.IntN(2000)) * time.Millisecond
			limit := 1 + random.IntN(6)
			store := slowStore{tickets.NewMemoryStore(nil), random, ttl}
			opts := &tickets.IssuerOptions{TTL: ttl, MaxPerSession: limit}
			i := mustIssuer(t, store, opts)
			var all []*attempt
			for range 800 {
				now := time.Now()
				sure, possible := 0, 0 // within one TTL, and within two
				for _, a := range all {
					if age := now.Sub(a.at); !a.failed.Load() && age <= 2*ttl {
						possible++
						if age <= ttl {
							sure++
						}
					}
				}
				a := &attempt{at: now}
				go func() {
					_, err := i.Mint(t.Context(), tickets.Grant{SessionID: "s"})
					a.refused.Store(errors.Is(err, tickets.ErrTooMany))
					a.failed.Store(err != nil)
				}()
				synctest.Wait() // it waits for the store, or was refused
				if a.refused.Load() {
					require.GreaterOrEqual(
						t,
						possible,
						limit,
						"refused with %d of %d",
						possible,
						limit,
					)
				} else {
					require.Less(t, sure, limit, "one too many")
					all = append(all, a)
				}
				time.Sleep(time.Duration(random.Int64N(int64(ttl)/int64(limit) + 1)))
				synctest.Wait()
			}
			time.Sleep(2 * ttl)
		})
	}
}

func TestMaxPerSession_Concurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		results := make(chan error, 500)
		for range cap(results) {
			go func() {
				_, err := i.Mint(t.Context(), tickets.Grant{SessionID: "s1"})
				results <- err
			}()
		}
		minted := 0
		for range cap(results) {
			if err := <-results; err == nil {
				minted++
			} else {
				assert.ErrorIs(t, err, tickets.ErrTooMany)
			}
		}
		assert.Equal(t, 64, minted)
	})
}
